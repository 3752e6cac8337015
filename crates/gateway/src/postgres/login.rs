//! Logging in: any user name that the authenticator knows, the token as the password. The password travels in clear, so without TLS only
//! this machine may send it.
use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use datafusion_postgres::pgwire::{
    api::{
        ClientInfo, ConnectionGuard, ConnectionHandle, ConnectionManager, METADATA_DATABASE, METADATA_USER, PgWireConnectionState,
        PidSecretKeyGenerator, RandomPidSecretKeyGenerator,
        auth::{
            DefaultServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation,
            save_startup_parameters_to_metadata,
        },
    },
    error::{ErrorInfo, PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, PgWireFrontendMessage, startup::Authentication},
};
use futures::{Sink, SinkExt};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{DATABASE, MAX_CONNECTIONS};
use crate::auth::{Authenticate, Principal, Role};

pub struct Login {
    login: Arc<dyn Authenticate>,
    connections: Arc<ConnectionManager>,
    keys: RandomPidSecretKeyGenerator,
}

impl Login {
    pub fn new(login: Arc<dyn Authenticate>, connections: Arc<ConnectionManager>) -> Self {
        Self { login, connections, keys: RandomPidSecretKeyGenerator::default() }
    }

    fn check<C: ClientInfo>(&self, client: &C, password: &str) -> PgWireResult<Principal> {
        let user = client.metadata().get(METADATA_USER).map(String::as_str).unwrap_or_default();
        self.login.check(Some(user), password).ok_or_else(|| {
            let message = format!("password authentication failed for user \"{user}\"");
            let hint =
                "log in as \"admin\", whose password is in the file `token` of the data directory, or as a user of the roles file";
            fatal("28P01", message, hint)
        })
    }

    async fn greet<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(ref startup) => {
                protocol_negotiation(client, startup).await?;
                save_startup_parameters_to_metadata(client, startup);
                if !client.is_secure() && !client.socket_addr().ip().is_loopback() {
                    return Err(fatal(
                        "28000",
                        "passwords from other machines need TLS".to_owned(),
                        "connect with sslmode=require",
                    ));
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                client.send(PgWireBackendMessage::Authentication(Authentication::CleartextPassword)).await?;
            }
            PgWireFrontendMessage::PasswordMessageFamily(password) => {
                let password = password.into_password()?;
                let principal = self.check(client, &password.password)?;
                check_database(client)?;
                let (pid, key) = self.keys.generate(client);
                client.set_pid_and_secret_key(pid, key.clone());
                let (handle, guard) = self.connections.register(pid, key);
                client.session_extensions().insert::<Arc<ConnectionHandle>>(handle);
                client.session_extensions().insert::<ConnectionGuard>(guard);
                let mut parameters = DefaultServerParameterProvider::default();
                parameters.is_superuser = principal.role == Role::Admin;
                client.session_extensions().insert::<Principal>(principal);
                finish_authentication(client, &parameters).await?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The login of one connection, which `end` ends when it fails: pgwire would keep it, silent, for as long as the client likes.
pub struct Attempt {
    pub login: Arc<Login>,
    pub end: CancellationToken,
}

#[async_trait]
impl StartupHandler for Attempt {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if let Err(error) = self.login.greet(client, message).await {
            debug!(peer = %client.socket_addr(), %error, "PostgreSQL door: a login failed");
            client.send(PgWireBackendMessage::ErrorResponse(ErrorInfo::from(error).into())).await?;
            client.close().await?;
            self.end.cancel();
        }
        Ok(())
    }
}

/// Refuses whoever comes while as many as may be are connected.
pub struct Full;

#[async_trait]
impl StartupHandler for Full {
    async fn on_startup<C>(&self, _: &mut C, _: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        Err(fatal(
            "53300",
            format!("too many connections: the PostgreSQL door takes {MAX_CONNECTIONS} at once"),
            "close some, or let clients share them in a pool",
        ))
    }
}

/// Asked only after the password, so that nobody learns anything without one.
fn check_database<C: ClientInfo>(client: &C) -> PgWireResult<()> {
    match client.metadata().get(METADATA_DATABASE) {
        Some(database) if database == DATABASE => Ok(()),
        other => {
            let user = client.metadata().get(METADATA_USER).map(String::as_str).unwrap_or_default();
            let asked = other.map_or(user, String::as_str);
            Err(fatal("3D000", format!("database \"{asked}\" does not exist"), "connect to database polybolos"))
        }
    }
}

fn fatal(code: &str, message: String, hint: &str) -> PgWireError {
    let mut info = ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message);
    info.hint = Some(hint.to_owned());
    PgWireError::UserError(Box::new(info))
}
