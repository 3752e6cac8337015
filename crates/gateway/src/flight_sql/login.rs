//! The token as a bearer in every call's metadata, or as the password of basic authentication, in a handshake (which hands the bearer
//! back) or in every call.
use std::pin::Pin;

use arrow_flight::HandshakeResponse;
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use futures::{Stream, stream};
use tonic::{Response, Status, metadata::MetadataMap};

use crate::auth::{Authenticate, Principal};

enum Shown {
    Bearer(String),
    Basic { user: String, password: String },
}

pub fn principal(login: &dyn Authenticate, metadata: &MetadataMap) -> Result<Principal, Status> {
    let principal = match shown(metadata)? {
        Shown::Bearer(token) => login.check(None, &token),
        Shown::Basic { user, password } => login.check(Some(&user), &password),
    };
    principal.ok_or_else(|| {
        Status::unauthenticated(
            "the token is not known here; it is in the file `token` of the data directory, basic logins send it as the password",
        )
    })
}

type Handshake = Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>;

/// Answers with the bearer to send from now on, in the header where clients look for it and in the payload.
pub fn handshake(login: &dyn Authenticate, metadata: &MetadataMap) -> Result<Response<Handshake>, Status> {
    principal(login, metadata)?;
    let (Shown::Bearer(token) | Shown::Basic { password: token, .. }) = shown(metadata)?;
    let answer = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
    let mut response: Response<Handshake> = Response::new(Box::pin(stream::iter([Ok(answer)])));
    let bearer = format!("Bearer {token}")
        .parse()
        .map_err(|_| Status::unauthenticated("the token has characters that no header can carry"))?;
    response.metadata_mut().insert("authorization", bearer);
    Ok(response)
}

fn shown(metadata: &MetadataMap) -> Result<Shown, Status> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok()).ok_or_else(|| {
        Status::unauthenticated("no token; send `authorization: Bearer <token>`, or log in with the token as the password")
    })?;
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Shown::Bearer(rest.trim().to_owned()));
    }
    // Some drivers leave the padding out.
    let decoded = scheme
        .eq_ignore_ascii_case("basic")
        .then(|| BASE64_STANDARD_NO_PAD.decode(rest.trim().trim_end_matches('=')).ok())
        .flatten();
    let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    match pair.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((user, password)) => Ok(Shown::Basic { user: user.to_owned(), password: password.to_owned() }),
        None => Err(Status::unauthenticated("the authorization header is neither a bearer nor a basic login")),
    }
}
