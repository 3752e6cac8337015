//! The HTTP door: who gets in, what comes back.
#![allow(clippy::unwrap_used)]
mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::connect_info::MockConnectInfo,
    http::{Request, Response, StatusCode, header},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::StreamExt;
use polybolos_gateway::http::{HttpDoor, metrics, router};
use serde_json::{Value, json};
use support::{MemoryEngine, READER_TOKEN, TOKEN, TestLogin};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

async fn door_for(peer: [u8; 4]) -> Router {
    let door = HttpDoor {
        engine: MemoryEngine::start().await,
        login: Arc::new(TestLogin),
        metrics: Arc::new(|| "polybolos_up 1\n".to_owned()),
        ready: Arc::new(|| Err("no executor".to_owned())),
        port: 7400,
        https: false,
        stop: CancellationToken::new(),
    };
    router(door).layer(MockConnectInfo(SocketAddr::from((peer, 50_000))))
}

async fn door() -> Router {
    door_for([127, 0, 0, 1]).await
}

fn get(path: &str) -> axum::http::request::Builder {
    Request::get(path).header(header::HOST, "127.0.0.1:7400")
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(axum::body::to_bytes(response.into_body(), 1 << 24).await.unwrap().to_vec()).unwrap()
}

async fn status_of(door: &Router, request: Request<Body>) -> StatusCode {
    door.clone().oneshot(request).await.unwrap().status()
}

async fn sql(door: &Router, token: &str, body: Value) -> (StatusCode, Value) {
    let request = Request::post("/api/v1/sql")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let response = door.clone().oneshot(request).await.unwrap();
    (response.status(), serde_json::from_str(&text(response).await).unwrap())
}

fn cookie(token: &str) -> String {
    format!("other=1; polybolos_7400={}", BASE64_URL_SAFE_NO_PAD.encode(token))
}

#[tokio::test]
async fn only_those_with_a_token_get_in() {
    let door = door().await;
    for path in ["/", "/api/v1/status", "/api/v1/events", "/js/main.js", "/index.html", "/css/console.css"] {
        let anonymous = status_of(&door, get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(anonymous, StatusCode::UNAUTHORIZED, "{path} without a token");
        for (name, value) in
            [("authorization", "Bearer wrong".to_owned()), ("authorization", "Basic xyz".to_owned()), ("cookie", cookie("wrong"))]
        {
            let wrong = status_of(&door, get(path).header(name, value).body(Body::empty()).unwrap()).await;
            assert_eq!(wrong, StatusCode::UNAUTHORIZED, "{path} with a wrong {name}");
        }
        // A wrong bearer is not mended by a good cookie.
        let mixed = get(path).header("authorization", "Bearer wrong").header("cookie", cookie(TOKEN)).body(Body::empty()).unwrap();
        assert_eq!(status_of(&door, mixed).await, StatusCode::UNAUTHORIZED, "{path}");
        for (name, value) in
            [("authorization", format!("Bearer {TOKEN}")), ("cookie", cookie(TOKEN)), ("cookie", cookie(READER_TOKEN))]
        {
            let right = status_of(&door, get(path).header(name, value).body(Body::empty()).unwrap()).await;
            assert_eq!(right, StatusCode::OK, "{path} with a right {name}");
        }
    }
    for path in ["/healthz", "/icon.svg", "/css/base.css", "/js/login.js", "/js/early_theme.js"] {
        assert_eq!(status_of(&door, get(path).body(Body::empty()).unwrap()).await, StatusCode::OK, "{path} is open");
    }
    let ready = door.clone().oneshot(get("/readyz").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(ready).await.contains("no executor"));
}

#[tokio::test]
async fn the_link_with_the_token_logs_a_browser_in() {
    let door = door().await;
    let response = door.clone().oneshot(get(&format!("/?token={TOKEN}")).body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let set = response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    assert!(!text(response).await.contains(TOKEN));
    let back = get("/").header(header::COOKIE, set.split(';').next().unwrap()).body(Body::empty()).unwrap();
    let page = door.clone().oneshot(back).await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    assert!(text(page).await.contains("main.js"));

    let wrong = door.clone().oneshot(get("/?token=wrong").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(!wrong.headers().contains_key(header::SET_COOKIE));
    assert!(text(wrong).await.contains("Log in to Polybolos"));
}

#[tokio::test]
async fn other_sites_get_nothing() {
    let door = door().await;
    for (name, value, expected) in [
        ("sec-fetch-site", "cross-site", StatusCode::FORBIDDEN),
        ("sec-fetch-site", "same-site", StatusCode::FORBIDDEN),
        ("sec-fetch-site", "same-origin", StatusCode::OK),
        ("origin", "http://evil.example", StatusCode::FORBIDDEN),
        ("origin", "http://127.0.0.1:7400", StatusCode::OK),
        ("origin", "null", StatusCode::FORBIDDEN),
    ] {
        let request = get("/api/v1/status").header("cookie", cookie(TOKEN)).header(name, value).body(Body::empty()).unwrap();
        assert_eq!(status_of(&door, request).await, expected, "{name}: {value}");
    }
    let form = Request::post("/api/v1/sql")
        .header("cookie", cookie(TOKEN))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from("sql=SELECT+1"))
        .unwrap();
    assert_eq!(status_of(&door, form).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn metrics_are_for_this_machine_and_for_tokens() {
    let here = door().await;
    let elsewhere = door_for([192, 0, 2, 7]).await;
    let plain = || get("/metrics").body(Body::empty()).unwrap();
    assert_eq!(status_of(&here, plain()).await, StatusCode::OK);
    assert_eq!(status_of(&elsewhere, plain()).await, StatusCode::UNAUTHORIZED);
    let rebound = Request::get("/metrics").header(header::HOST, "evil.example:7400").body(Body::empty()).unwrap();
    assert_eq!(status_of(&here, rebound).await, StatusCode::UNAUTHORIZED);
    // HTTP/2 has no Host.
    for (uri, expected) in
        [("https://localhost:7400/metrics", StatusCode::OK), ("https://evil.example:7400/metrics", StatusCode::UNAUTHORIZED)]
    {
        assert_eq!(status_of(&here, Request::get(uri).body(Body::empty()).unwrap()).await, expected, "{uri}");
    }
    let bearer = get("/metrics").header("authorization", format!("Bearer {READER_TOKEN}")).body(Body::empty()).unwrap();
    assert_eq!(status_of(&elsewhere, bearer).await, StatusCode::OK);
}

#[tokio::test]
async fn a_process_without_another_door_shows_metrics_and_health_until_told_to_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, shown) = (CancellationToken::new(), Arc::new(|| "polybolos_up 1\n".to_owned()));
    let served = tokio::spawn(metrics::serve(listener, Arc::new(TestLogin), shown, None, stop.clone()));
    for (path, host, status, body) in [
        ("/metrics", "127.0.0.1", "200 OK", "polybolos_up 1\n"),
        ("/metrics", "evil.example", "401 Unauthorized", "no valid token"),
        ("/healthz", "127.0.0.1", "200 OK", "ok\n"),
        ("/api/v1/status", "127.0.0.1", "404 Not Found", ""),
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")) && answer.contains(body), "{path}: {answer}");
        assert!(answer.contains("x-content-type-options: nosniff"), "{path}: {answer}");
    }
    stop.cancel();
    served.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn files_come_from_the_binary_only_and_with_safe_headers() {
    let door = door().await;
    for path in [
        "/../Cargo.toml",
        "/..%2fCargo.toml",
        "/js/../../Cargo.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/js",
        "/nothing.js",
    ] {
        let request = get(path).header("cookie", cookie(TOKEN)).body(Body::empty()).unwrap();
        assert_eq!(status_of(&door, request).await, StatusCode::NOT_FOUND, "{path}");
    }
    let page = door.clone().oneshot(get("/").header("cookie", cookie(TOKEN)).body(Body::empty()).unwrap()).await.unwrap();
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(page.headers()[header::X_FRAME_OPTIONS], "DENY");
    let tag = page.headers()[header::ETAG].clone();
    let again = get("/").header("cookie", cookie(TOKEN)).header(header::IF_NONE_MATCH, tag).body(Body::empty()).unwrap();
    assert_eq!(status_of(&door, again).await, StatusCode::NOT_MODIFIED);
    // The policy forbids inline scripts, inline styles and other machines: the pages must do without.
    for path in ["/", "/login.html"] {
        let page = door.clone().oneshot(get(path).header("cookie", cookie(TOKEN)).body(Body::empty()).unwrap()).await.unwrap();
        let html = text(page).await;
        for forbidden in [" style=", " onclick=", "<style", "http://", "https://", "<script>"] {
            assert!(!html.contains(forbidden), "{path} contains {forbidden}");
        }
    }
}

#[tokio::test]
async fn sql_answers_rows_and_errors() {
    let door = door().await;
    let (status, body) = sql(&door, TOKEN, json!({ "sql": "SELECT id, first_name, age FROM created_users ORDER BY id" })).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["columns"][0], json!({ "name": "id", "type": "Utf8", "nullable": false }));
    assert_eq!(body["rows"], json!([["a", "محمد", 31], ["b", "Zoë", null], ["c", "O'Hara", -5]]));
    assert_eq!(body["truncated"], json!(false));

    let (_, body) = sql(&door, TOKEN, json!({ "sql": "SELECT * FROM created_users", "limit": 2 })).await;
    assert_eq!((body["rows"].as_array().unwrap().len(), &body["truncated"]), (2, &json!(true)));

    let (status, body) = sql(&door, READER_TOKEN, json!({ "sql": "PAUSE JOB j" })).await;
    assert_eq!((status, &body["error"]["hint"]), (StatusCode::FORBIDDEN, &json!("ask an operator")));
    let (status, body) = sql(&door, TOKEN, json!({ "sql": "PAUSE JOB j" })).await;
    assert_eq!(
        (status, &body["tag"], &body["notices"][0]),
        (StatusCode::OK, &json!("PAUSE JOB"), &json!("job j pauses after its epoch"))
    );

    for (text, expected) in
        [("SELEC 1", StatusCode::BAD_REQUEST), ("SELECT * FROM nowhere", StatusCode::NOT_FOUND), (" ; ", StatusCode::BAD_REQUEST)]
    {
        let (status, body) = sql(&door, TOKEN, json!({ "sql": text })).await;
        assert_eq!(status, expected, "{text}: {body}");
        assert!(!body["error"]["message"].as_str().unwrap().contains('\n'));
    }
    let (status, body) = sql(&door, TOKEN, json!({ "sql": "SELECT id AS endless FROM created_users" })).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{body}");
    assert!(body["error"]["hint"].as_str().unwrap().contains("polybolos sql"), "{body}");
    let (status, _) = sql(&door, TOKEN, json!({ "query": "SELECT 1" })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    // The second does not fit into a body; of the third the body is larger than the statement may be, and the statement is not.
    for (text, expected) in [
        ("x".repeat((256 << 10) + 1), StatusCode::PAYLOAD_TOO_LARGE),
        ("x".repeat(2 << 20), StatusCode::PAYLOAD_TOO_LARGE),
        (format!("SELECT 1 --{}", "\u{1}".repeat(200 << 10)), StatusCode::OK),
    ] {
        let (status, body) = sql(&door, TOKEN, json!({ "sql": text })).await;
        assert_eq!(status, expected, "{body}");
        let told = body["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(told.starts_with("the statement is longer than 256 KiB; "), status != StatusCode::OK, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_what_goes_on() {
    let door = door().await;
    for (statement, hint) in [("SLEEP", "narrow it with WHERE"), ("SLEEP ON", "goes on to its end; SHOW JOBS")] {
        let (status, body) = sql(&door, TOKEN, json!({ "sql": statement })).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
        assert!(body["error"]["hint"].as_str().unwrap().contains(hint), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_bring_status_each_second_and_new_rows_once() {
    let door = door().await;
    let request = get("/api/v1/events?table=created_users").header("cookie", cookie(TOKEN)).body(Body::empty()).unwrap();
    let response = door.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    let mut received = String::new();
    while received.matches("event: status").count() < 3 {
        let chunk = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap().unwrap().unwrap();
        received.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert_eq!(received.matches("event: rows").count(), 1, "rows that were told are not told again");
    let statuses: Vec<Value> = received
        .split("\n\n")
        .filter(|event| event.starts_with("event: status"))
        .map(|event| serde_json::from_str(event.split_once("data: ").unwrap().1).unwrap())
        .collect();
    let points = |status: &Value| status["jobs"][0]["history"].as_array().unwrap().len();
    assert_eq!((points(&statuses[0]), points(&statuses[1])), (120, 5));

    let missing = get("/api/v1/events?table=nowhere").header("cookie", cookie(TOKEN)).body(Body::empty()).unwrap();
    let mut stream = door.oneshot(missing).await.unwrap().into_body().into_data_stream();
    let mut received = String::new();
    while received.matches("event: status").count() < 3 {
        received.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
    }
    assert_eq!(received.matches("event: trouble").count(), 1);
}

#[tokio::test]
async fn a_browser_too_many_is_told_the_limit() {
    let door = door().await;
    let watch = || get("/api/v1/events").header("cookie", cookie(TOKEN)).body(Body::empty()).unwrap();
    let mut watching = Vec::new();
    for _ in 0..64 {
        let response = door.clone().oneshot(watch()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        watching.push(response);
    }
    let refused = door.clone().oneshot(watch()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(refused).await.contains("takes 64 at once; close some"));
}
