//! Three ways to show the token: `Authorization: Bearer` (programs), the cookie (browsers), and once `/?token=…`, which sets the cookie.
//! The cookie is HttpOnly and SameSite=Strict; requests that another site's page made are refused besides.
use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::{HttpDoor, Shared};
use crate::auth::{Authenticate, Principal};

const COOKIE_SECONDS: u32 = 30 * 24 * 3600;

/// Lets a request through with its [`Principal`] in the extensions.
pub async fn require(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    if is_foreign(request.headers()) {
        let message = "requests of other sites' pages are refused";
        return (StatusCode::FORBIDDEN, Json(json!({ "error": { "kind": "forbidden", "message": message } }))).into_response();
    }
    let Some(principal) = principal(&*shared.door.login, shared.door.port, request.headers()) else {
        return refuse_api();
    };
    request.extensions_mut().insert(principal);
    next.run(request).await
}

pub fn refuse_api() -> Response {
    let body = json!({ "error": {
        "kind": "unauthenticated",
        "message": "no valid token",
        "hint": "send `Authorization: Bearer <token>`; the token is in the file `token` of the data directory",
    } });
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer realm=\"polybolos\"")], Json(body)).into_response()
}

/// Who sent this to the door on `port`.
pub fn principal(login: &dyn Authenticate, port: u16, headers: &HeaderMap) -> Option<Principal> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        // A program that shows a wrong token must not get in by a cookie.
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return if scheme.eq_ignore_ascii_case("bearer") { login.check(None, token.trim()) } else { None };
    }
    let name = cookie_name(port);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let value = cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))?;
    let token = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(value).ok()?).ok()?;
    login.check(None, &token)
}

/// The cookie that keeps a browser logged in with this token, which has been checked.
pub fn cookie(door: &HttpDoor, token: &str) -> Option<HeaderValue> {
    let value = BASE64_URL_SAFE_NO_PAD.encode(token);
    let secure = if door.https { "; Secure" } else { "" };
    let cookie = format!("{}={value}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Strict{secure}", cookie_name(door.port));
    HeaderValue::from_str(&cookie).ok()
}

fn cookie_name(port: u16) -> String {
    format!("polybolos_{port}")
}

/// Whether a browser says that a page of another origin sent this.
fn is_foreign(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    origin.split_once("://").is_none_or(|(_, authority)| authority != host)
}

/// Whether the request was addressed to this machine by a loopback name: in HTTP/2 the URI has it, and there is no Host.
pub fn names_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let host = match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => uri.authority().map(Authority::as_str),
    };
    let Some(host) = host else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}
