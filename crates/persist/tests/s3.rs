//! The store on a real S3 server (`POLYBOLOS_TEST_S3`, `make test` starts one), whose buckets behave as their names say: `tests/python/s3_server.py`.
use polybolos_persist::{Expected, PIECE_BYTES, S3Address, S3Settings, S3Store, Store, StoreError, Swap};

async fn open(url: &str) -> Result<S3Store, StoreError> {
    let endpoint =
        std::env::var("POLYBOLOS_TEST_S3").expect("run these tests under tests/python/s3_server.py, as `make unit` does");
    let settings =
        S3Settings { endpoint, region: "us-east-1".into(), access_key_id: "key".into(), secret_access_key: "secret".into() };
    S3Store::open(S3Address::parse(url)?, &settings).await
}

/// As every user of the store does: one that is away just now is asked again.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(mut ask: impl FnMut() -> F) -> T {
    for _ in 0..5 {
        match ask().await {
            Err(error) if error.is_away() => {}
            outcome => return outcome.expect("an answer"),
        }
    }
    panic!("the store stays away")
}

async fn opened(url: &str) -> S3Store {
    patiently(|| open(url)).await
}

async fn refusal(url: &str) -> String {
    let error = open(url).await.expect_err("refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// Many writers at once, each adding words of its own to one object: in the end every word is there once.
async fn write_together(bucket: &str) {
    const WRITERS: usize = 6;
    const WORDS: usize = 10;
    let store = std::sync::Arc::new(opened(&format!("s3://{bucket}/together")).await);
    patiently(|| store.put_if("a/words", "".into(), Expected::Absent)).await;
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for word in (0..WORDS).map(|word| format!("{writer}.{word};")) {
                // As every user of the store: after an error, or a conflict with what may be one's own, look.
                loop {
                    let Ok(found) = store.get("a/words").await else { continue };
                    let (bytes, version) = found.expect("exists");
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    if text.contains(&word) {
                        break;
                    }
                    let stored = store.put_if("a/words", (text + &word).into(), Expected::Version(version)).await;
                    if matches!(stored, Ok(Swap::Stored(_))) {
                        break;
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("writes");
    }
    let (bytes, _) = patiently(|| store.get("a/words")).await.expect("exists");
    let mut found: Vec<&str> = std::str::from_utf8(&bytes).expect("text").split_terminator(';').collect();
    found.sort_unstable();
    let wanted: Vec<String> = (0..WRITERS).flat_map(|writer| (0..WORDS).map(move |word| format!("{writer}.{word}"))).collect();
    assert_eq!(found, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_swaps_at_once_each_success_builds_on_the_one_before_it() {
    write_together("sound").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loses_answers_refuses_and_falls_silent_loses_and_doubles_no_swap() {
    write_together("shaky").await;
}

#[tokio::test]
async fn files_are_written_once_also_when_the_first_answer_is_lost_and_listed_below_their_prefix() {
    for bucket in ["sound", "shaky"] {
        let store = opened(&format!("s3://{bucket}/files/deep")).await;
        let keys: Vec<String> = (0..12).map(|number| format!("parts/1/{number:02}-Ωmega")).collect();
        for key in &keys {
            store.create(key, key.clone().into()).await.expect("creates");
            assert!(matches!(store.create(key, "other".into()).await, Err(StoreError::Exists { .. })), "{bucket}");
            assert_eq!(store.read(key).await.expect("reads"), *key);
        }
        let other = opened(&format!("s3://{bucket}/files")).await;
        other.create("parts/foreign", "x".into()).await.expect("creates");
        let listed: Vec<String> = store.list("parts/").await.expect("lists").into_iter().map(|entry| entry.key).collect();
        assert_eq!(listed, keys);
        assert_eq!(store.folders("parts/").await.expect("lists"), ["1"], "{bucket}");
        assert!(store.folders("nothing/").await.expect("lists").is_empty(), "{bucket}");
        store.delete(&[keys[0].clone(), "parts/never".into()]).await.expect("deletes");
        store.delete(&[]).await.expect("deletes nothing");
        assert!(matches!(store.read(&keys[0]).await, Err(StoreError::Missing { .. })));
        assert_eq!(store.list("parts/").await.expect("lists").len(), keys.len() - 1);
    }
}

#[tokio::test]
async fn the_same_bytes_written_again_are_another_version_and_large_files_come_back_whole() {
    let store = open("s3://sound/versions").await.expect("opens");
    let Swap::Stored(first) = store.put_if("o", "same".into(), Expected::Absent).await.expect("swaps") else { panic!() };
    let Swap::Stored(second) = store.put_if("o", "same".into(), Expected::Version(first.clone())).await.expect("swaps") else {
        panic!()
    };
    assert_ne!(first, second);
    assert_eq!(store.put_if("o", "late".into(), Expected::Version(first)).await.expect("answers"), Swap::Conflict);
    assert_eq!(store.put_if("o", "late".into(), Expected::Absent).await.expect("answers"), Swap::Conflict);
    assert_eq!(store.put_if("never", "x".into(), Expected::Version(second)).await.expect("answers"), Swap::Conflict);
    assert!(store.get("never").await.expect("answers").is_none());
    let large = bytes::Bytes::from(vec![7; 20 << 20]);
    store.create("large", large.clone()).await.expect("creates");
    assert!(store.read("large").await.expect("reads") == large);
    for key in ["../a", "/a", "a//b", ""] {
        assert!(matches!(store.get(key).await, Err(StoreError::BadKey { .. })), "{key}");
    }
}

#[tokio::test]
async fn a_file_in_pieces_is_there_when_it_is_finished_once_and_whole_also_when_answers_are_lost() {
    for bucket in ["sound", "shaky"] {
        let store = opened(&format!("s3://{bucket}/pieces")).await;
        let piece = |number: usize| bytes::Bytes::from(vec![number as u8; PIECE_BYTES]);
        let mut file = store.begin("parts/a").await.expect("begins");
        for number in 1..4 {
            file.append(piece(number)).await.expect("appends");
        }
        file.append("end".into()).await.expect("appends");
        assert!(store.list("parts/").await.expect("lists").is_empty(), "{bucket}");
        file.finish(piece(0)).await.expect("finishes");
        let whole = store.read("parts/a").await.expect("reads");
        assert!(whole == [piece(0), piece(1), piece(2), piece(3), "end".into()].concat(), "{bucket}");

        let (size, end) = (PIECE_BYTES as u64, whole.len() as u64);
        for range in [0..size, size - 1..size + 1, end - 4..end + 4] {
            let expected = &whole[range.start as usize..range.end.min(end) as usize];
            assert!(store.read_range("parts/a", range).await.expect("reads") == expected, "{bucket}");
        }
        assert_eq!(store.read_range("parts/a", end..end + 4).await.expect("reads"), "");
        assert!(matches!(store.read_range("parts/b", 0..4).await, Err(StoreError::Missing { .. })));

        let mut again = store.begin("parts/a").await.expect("begins");
        again.append("other".into()).await.expect("appends");
        assert!(matches!(again.finish(piece(9)).await, Err(StoreError::Exists { .. })), "{bucket}");
        let mut given_up = store.begin("parts/b").await.expect("begins");
        given_up.append(piece(1)).await.expect("appends");
        drop(given_up);
        let keys: Vec<String> = store.list("parts/").await.expect("lists").into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["parts/a"], "{bucket}");
        assert!(store.read("parts/a").await.expect("reads") == whole, "{bucket}");
    }
}

#[tokio::test]
async fn what_statements_change_is_asked_for_longer_than_what_others_ask_for_again() {
    let store = &open("s3://late/patience").await.expect("opens");
    let absent = async |key: &'static str| store.put_if(key, "x".into(), Expected::Absent).await;
    let (lease, catalog, owner, manifest) =
        tokio::join!(absent("lease"), absent("catalog"), absent("tables/k.t"), absent("jobs/a/manifest"));
    assert!(lease.expect_err("given up").is_away());
    for (key, swap) in [("catalog", catalog), ("tables/k.t", owner), ("jobs/a/manifest", manifest)] {
        assert!(matches!(swap, Ok(Swap::Stored(_))), "{key}: {swap:?}");
    }
}

#[tokio::test]
async fn unsound_and_unusable_servers_are_refused_in_one_line_that_says_why() {
    let forgetful = refusal("s3://forgetful/x").await;
    assert!(
        forgetful.contains("s3://forgetful/x cannot be used: it creates an object that exists; use a server that honours"),
        "{forgetful}"
    );
    let racy = refusal("s3://racy/x").await;
    assert!(racy.contains("of several swaps at once not exactly one succeeds"), "{racy}");
    let closed = refusal("s3://closed/x").await;
    assert!(closed.contains("403 AccessDenied: as the test wants it") && closed.contains("give this user the right"), "{closed}");
    let missing = refusal("s3://nowhere/x").await;
    assert!(missing.contains("NoSuchBucket"), "{missing}");
    assert!(!open("s3://nowhere/x").await.expect_err("refused").is_away());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_away() {
    let settings = S3Settings {
        // Nobody listens on port 1.
        endpoint: "http://127.0.0.1:1".into(),
        access_key_id: "key".into(),
        secret_access_key: "secret".into(),
        ..S3Settings::default()
    };
    let error = S3Store::open(S3Address::parse("s3://sound").expect("reads"), &settings).await.expect_err("refused");
    assert!(error.is_away() && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_bucket_serves_many_machines() {
    assert!(!open("s3://sound/machines").await.expect("opens").serves_one_machine());
}
