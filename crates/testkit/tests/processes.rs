//! Processes really run, pause, die, and die with whoever started them; the proxy really breaks what it says.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use polybolos_testkit::{Direction, Error, FaultProxy, Process, ProcessSpec, wait_until, wait_until_async};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn shell(name: &str, script: &str) -> ProcessSpec {
    ProcessSpec::new(name, "sh").args(["-c", script])
}

/// Z (zombie) counts as gone: it only waits to be collected.
fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn a_process_says_ready_and_ends_in_order() {
    let logs = tempfile::tempdir().unwrap();
    let spec =
        shell("polite", "trap 'echo bye; exit 7' TERM; echo starting; echo \"ready $GREETING\"; while :; do sleep 0.05; done");
    let spec = spec.env("GREETING", "hello").log_dir(logs.path());
    let mut process = spec.spawn().unwrap();
    assert_eq!(process.wait_ready(SOON).unwrap(), "ready hello");
    assert_eq!(process.terminate(SOON).unwrap().code(), Some(7));
    assert!(process.stdout().unwrap().ends_with("bye\n"));
    assert!(process.pause().is_err(), "it is gone");

    // A second run appends to the same file, and waits for its own line only.
    let mut again = spec.spawn().unwrap();
    again.wait_ready(SOON).unwrap();
    assert_eq!(again.stdout().unwrap(), "starting\nready hello\n");
}

#[test]
fn one_that_ignores_sigterm_is_killed_with_its_group() {
    let mut process = shell("stubborn", "trap '' TERM; sleep 300 & echo ready $!; while :; do sleep 0.05; done").spawn().unwrap();
    let ready = process.wait_ready(SOON).unwrap();
    let child: u32 = ready.trim_start_matches("ready ").parse().unwrap();
    assert!(!process.terminate(Duration::from_millis(200)).unwrap().success());
    wait_until("the end of its child", SOON, || !is_alive(child)).unwrap();
}

#[test]
fn pause_and_resume() {
    let mut process = shell("pausing", "echo ready; exec sleep 300").spawn().unwrap();
    process.wait_ready(SOON).unwrap();
    let pid = process.pid();
    process.pause().unwrap();
    wait_until("SIGSTOP", SOON, || state(pid) == Some('T')).unwrap();
    process.resume().unwrap();
    wait_until("SIGCONT", SOON, || state(pid) != Some('T')).unwrap();
    process.pause().unwrap();
    let started = Instant::now();
    process.terminate(SOON).unwrap();
    assert!(started.elapsed() < SOON, "SIGTERM reaches a paused process too");
}

#[test]
fn an_early_end_shows_the_log() {
    let mut process = shell("broken", "echo no such broker >&2; exit 3").spawn().unwrap();
    let error = process.wait_ready(SOON).unwrap_err();
    assert!(matches!(error, Error::Ended { .. }), "{error}");
    assert!(error.to_string().contains("no such broker"), "{error}");
    let error = ProcessSpec::new("nothing", "no-such-program-here").spawn().unwrap_err();
    assert!(error.to_string().contains("no-such-program-here"), "{error}");
}

#[test]
fn processes_live_on_when_the_thread_that_started_them_ends() {
    let mut process = std::thread::spawn(|| shell("orphan", "echo ready; exec sleep 300").spawn().unwrap()).join().unwrap();
    process.wait_ready(SOON).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(process.is_running());
    let pid = process.pid();
    drop(process);
    assert!(!is_alive(pid));
}

/// The launcher binary is the one who is killed here: its command must not outlive it. No server is started for that.
#[test]
fn processes_die_with_a_parent_that_is_killed() {
    let me = std::env::current_exe().unwrap();
    // This very test binary, running only the helper below, is the parent.
    let mut parent = ProcessSpec::new("parent", me)
        .args(["--exact", "helper_that_starts_a_child", "--ignored", "--nocapture"])
        .env("POLYBOLOS_TESTKIT_HELPER", "1")
        .spawn()
        .unwrap();
    let mut child = 0;
    wait_until("the child's pid", SOON, || {
        let stdout = parent.stdout().unwrap();
        child = stdout.lines().find_map(|line| line.rsplit_once("child-pid ")?.1.parse().ok()).unwrap_or(0);
        child > 0
    })
    .unwrap();
    assert!(is_alive(child));
    parent.kill().unwrap();
    wait_until("the child's end", SOON, || !is_alive(child)).unwrap();
}

#[test]
#[ignore = "the other half of processes_die_with_a_parent_that_is_killed"]
fn helper_that_starts_a_child() {
    if std::env::var_os("POLYBOLOS_TESTKIT_HELPER").is_none() {
        return;
    }
    // In a process group of its own, so that only the parent-death signal can end it.
    let child: Process = shell("child", "exec sleep 300").spawn().unwrap();
    println!("\nchild-pid {}", child.pid());
    std::thread::sleep(Duration::from_secs(300));
}

/// A server that sends back what it gets.
fn echo_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn echo(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[test]
fn the_proxy_cuts_and_refuses() {
    let proxy = FaultProxy::start(&echo_server(), 1).unwrap();
    let mut stream = connect(&proxy);
    assert_eq!(echo(&mut stream, b"hello").unwrap(), b"hello");
    proxy.cut_all();
    assert!(echo(&mut stream, b"hello").is_err());
    assert_eq!(echo(&mut connect(&proxy), b"again").unwrap(), b"again");

    proxy.refuse().unwrap();
    assert!(TcpStream::connect(proxy.address()).is_err());
    proxy.accept().unwrap();
    assert_eq!(echo(&mut connect(&proxy), b"back").unwrap(), b"back");
    let counts = proxy.counts();
    assert_eq!((counts.accepted, counts.cut, counts.refusals), (3, 1, 1), "{counts:?}");
    assert_eq!((counts.bytes_to_server, counts.bytes_to_client), (14, 14), "{counts:?}");
}

#[test]
fn the_proxy_delays_and_keeps_the_order() {
    let proxy = FaultProxy::start(&echo_server(), 2).unwrap();
    proxy.delay(Duration::from_millis(60), Duration::from_millis(40));
    let mut stream = connect(&proxy);
    let started = Instant::now();
    for text in [b"first", b"other", b"third"] {
        assert_eq!(echo(&mut stream, text).unwrap(), text);
    }
    assert!(started.elapsed() >= Duration::from_millis(360), "three times there and back: {:?}", started.elapsed());
    assert!(proxy.counts().delayed >= 6, "{:?}", proxy.counts());
}

#[tokio::test]
async fn what_a_black_hole_holds_comes_after_healing_or_is_lost_by_a_cut() {
    let proxy = FaultProxy::start(&echo_server(), 3).unwrap();
    let mut stream = connect(&proxy);
    echo(&mut stream, b"warm").unwrap();
    proxy.hold(Direction::ToClient);
    stream.write_all(b"late").unwrap();
    wait_until_async("an answer held back", SOON, || async { proxy.counts().held == 1 }).await.unwrap();
    assert_eq!(proxy.counts().bytes_to_server, 8, "the server got it");
    proxy.heal();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"late");

    proxy.black_hole();
    stream.write_all(b"lost").unwrap();
    wait_until_async("a request held back", SOON, || async { proxy.counts().held == 2 }).await.unwrap();
    proxy.cut_all();
    assert!(stream.read_exact(&mut answer).is_err());
    assert_eq!(proxy.counts().bytes_to_server, 8);
}

#[test]
fn random_cuts_follow_the_seed() {
    let cuts_after = |seed| {
        let proxy = FaultProxy::start(&echo_server(), seed).unwrap();
        proxy.cut_at_random(100);
        let mut stream = connect(&proxy);
        let echoed = (0..1000).take_while(|_| echo(&mut stream, b"x").is_ok()).count();
        wait_until("the cut's count", SOON, || proxy.counts().cut == 1).unwrap();
        echoed
    };
    let first = cuts_after(5);
    assert!(first < 1000);
    assert_eq!(first, cuts_after(5));
}
