//! The console's files, embedded in the binary; nothing is ever read from the disk. Without a login `/` is the login page.
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use axum::{
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};
use include_dir::{Dir, File, include_dir};

use super::{Shared, login};

static CONSOLE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../console");

/// What the login page needs, and gives away nothing.
const PUBLIC: [&str; 4] = ["css/base.css", "js/early_theme.js", "js/login.js", "icon.svg"];

/// A redirect would start on the page that held the link, so that a strict cookie stays behind; a page of our own that moves on does not.
const LOGGED_IN: &str = "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url=/\"><title>Polybolos</title><link rel=\"icon\" href=\"/icon.svg\">\
     <p>Logged in. <a href=\"/\">Go on</a></p>";

pub async fn index(State(shared): State<Shared>, Query(query): Query<HashMap<String, String>>, headers: HeaderMap) -> Response {
    let door = &shared.door;
    if let Some(token) = query.get("token") {
        let Some(cookie) = door.login.check(None, token).and_then(|_| login::cookie(door, token)) else {
            return login_page();
        };
        return ([(header::SET_COOKIE, cookie)], Html(LOGGED_IN)).into_response();
    }
    if login::principal(&*door.login, door.port, &headers).is_none() {
        return login_page();
    }
    send(embedded("index.html"), &headers)
}

fn login_page() -> Response {
    (StatusCode::UNAUTHORIZED, Html(embedded("login.html").map(File::contents).unwrap_or_default())).into_response()
}

pub async fn file(State(shared): State<Shared>, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    if !PUBLIC.contains(&path) && login::principal(&*shared.door.login, shared.door.port, &headers).is_none() {
        return login::refuse_api();
    }
    send(embedded(path), &headers)
}

fn embedded(path: &str) -> Option<&'static File<'static>> {
    CONSOLE.get_file(path)
}

fn send(file: Option<&'static File<'static>>, headers: &HeaderMap) -> Response {
    let Some((file, content_type)) = file.and_then(|file| Some((file, content_type(file.path().extension()?.to_str()?)?))) else {
        return (StatusCode::NOT_FOUND, "there is nothing here; the console is at /\n").into_response();
    };
    let mut hasher = DefaultHasher::new();
    file.contents().hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let Ok(etag) = HeaderValue::from_str(&tag) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let caching = [(header::ETAG, etag), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, content_type)], file.contents()).into_response()
}

fn content_type(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => return None,
    })
}
