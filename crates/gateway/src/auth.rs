//! Who may come in: the doors ask one authenticator, which knows the tokens and their roles.
pub use polybolos_service::auth::Role;
use polybolos_service::auth::Users;

/// Who a request acts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub name: String,
    /// Ordered: each role may do what the ones before it may.
    pub role: Role,
}

pub trait Authenticate: Send + Sync + 'static {
    /// The principal whose secret this is; with a user name, only if the secret belongs to that user. Takes the same time whatever the
    /// secret is.
    fn check(&self, user: Option<&str>, secret: &str) -> Option<Principal>;
}

impl Authenticate for Users {
    fn check(&self, user: Option<&str>, secret: &str) -> Option<Principal> {
        Users::check(self, user, secret).map(|(name, role)| Principal { name, role })
    }
}
