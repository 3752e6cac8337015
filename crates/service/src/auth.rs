//! Tokens and who they belong to. One token file per data folder (mode 0600, made on first start, as Jupyter does) for `admin`; a roles file
//! for more people.
use std::{collections::BTreeMap, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngCore;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum AuthError {
    #[error("cannot read the token file {path}: {source}")]
    Token { path: String, source: std::io::Error },
    #[error("the roles file {path} cannot be used: {message}")]
    Roles { path: String, message: String },
}

/// What a person may do; each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Reader,
    Operator,
    Admin,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RolesFile {
    user: BTreeMap<String, User>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    role: Role,
    /// Hex of the token's SHA-256.
    sha256: String,
}

/// Everyone who may come in.
#[derive(Clone, Debug, Default)]
pub struct Users {
    users: BTreeMap<String, (Role, [u8; 32])>,
}

/// The token of a data folder, made when it is not there yet.
pub fn token(path: &Path) -> Result<String, AuthError> {
    let failed = |source| AuthError::Token { path: path.display().to_string(), source };
    match std::fs::read_to_string(path) {
        Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(source)),
    }
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    let token = URL_SAFE_NO_PAD.encode(bytes);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(token.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(token)
}

impl Users {
    /// `admin` with the token, and those of the roles file.
    pub fn new(token: &str, roles: Option<&Path>) -> Result<Self, AuthError> {
        let mut all = roles.map_or_else(|| Ok(Self::default()), Self::of_roles)?;
        all.users.entry("admin".to_owned()).or_insert_with(|| (Role::Admin, digest(token)));
        Ok(all)
    }

    /// Those of the roles file only, for a process without the token.
    pub fn of_roles(path: &Path) -> Result<Self, AuthError> {
        let invalid = |message: String| AuthError::Roles { path: path.display().to_string(), message: message.replace('\n', " ") };
        let text = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
        let file: RolesFile = toml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let mut users = BTreeMap::new();
        for (name, user) in file.user {
            let sha256 = parse_hex(&user.sha256).ok_or_else(|| invalid(format!("sha256 of {name} is not 64 hex digits")))?;
            users.insert(name, (user.role, sha256));
        }
        Ok(Self { users })
    }

    /// Whose secret this is; with a user name, only if it belongs to that user. Every user is compared, whatever the outcome.
    pub fn check(&self, user: Option<&str>, secret: &str) -> Option<(String, Role)> {
        let given = digest(secret);
        let mut found = None;
        for (name, (role, expected)) in &self.users {
            let matches = bool::from(expected.ct_eq(&given));
            if matches && user.is_none_or(|user| user == name) {
                found = Some((name.clone(), *role));
            }
        }
        found
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_token_is_made_once_and_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("token");
        let made = token(&path).expect("makes");
        assert_eq!(token(&path).expect("reads"), made);
        assert!(made.len() >= 43);
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn only_the_right_secret_of_the_right_user_comes_in() {
        let folder = tempfile::tempdir().expect("folder");
        let roles = folder.path().join("roles.toml");
        let sha256: String = digest("viewer's").iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(&roles, format!("[user.grafana]\nrole = \"reader\"\nsha256 = \"{sha256}\"\n")).expect("writes");
        let users = Users::new("the token", Some(&roles)).expect("users");
        assert_eq!(users.check(None, "the token"), Some(("admin".into(), Role::Admin)));
        assert_eq!(users.check(Some("grafana"), "viewer's"), Some(("grafana".into(), Role::Reader)));
        assert_eq!(users.check(Some("grafana"), "the token"), None);
        assert_eq!(users.check(None, ""), None);
        let users = Users::of_roles(&roles).expect("users");
        assert_eq!(users.check(None, "viewer's"), Some(("grafana".into(), Role::Reader)));
        assert_eq!(users.check(None, "the token"), None);
    }
}
