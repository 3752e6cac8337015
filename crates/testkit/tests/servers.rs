//! A real Kafka and a real Cassandra: started, killed, paused, restarted on the same ports and data, and gone with their
//! launcher. One test function, so that one pair runs at a time.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use polybolos_testkit::{CASSANDRA_PASSWORD, CASSANDRA_USER, CassandraOptions, KafkaOptions, LocalServer, ProcessSpec, Servers};
use polybolos_testkit::{Process, probe, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(30);

#[test]
fn real_servers() {
    both_start_and_keep_data_over_stop_and_kill();
    launcher_runs_a_command_and_leaves_nothing();
    launcher_that_is_killed_takes_its_servers_along();
}

fn both_start_and_keep_data_over_stop_and_kill() {
    let data = tempfile::tempdir().unwrap();
    let kafka =
        KafkaOptions { data_dir: Some(data.path().to_owned()), sasl: Some(("ann".into(), "pw".into())), ..KafkaOptions::default() };
    let cassandra = CassandraOptions { data_dir: Some(data.path().to_owned()), ..CassandraOptions::default() };
    let started = Instant::now();
    let (kafka, cassandra) = Servers::start(&kafka, &cassandra).unwrap();
    report("both started", started);
    let sasl = kafka.sasl_address().unwrap();
    assert!(std::net::TcpStream::connect(&sasl).is_ok());
    let first_pids = (kafka.pid().unwrap(), cassandra.pid().unwrap());

    run_cql(&cassandra, "CREATE KEYSPACE k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}");
    run_cql(&cassandra, "CREATE TABLE k.t (id text PRIMARY KEY)");
    run_cql(&cassandra, "INSERT INTO k.t (id) VALUES ('kept-over-kill')");

    cassandra.pause().unwrap();
    let address = cassandra.address().parse().unwrap();
    assert!(probe::cassandra(address, CASSANDRA_USER, CASSANDRA_PASSWORD).is_err(), "a paused server does not answer");
    cassandra.resume().unwrap();
    wait_until("an answer after SIGCONT", SOON, || probe::cassandra(address, CASSANDRA_USER, CASSANDRA_PASSWORD).is_ok()).unwrap();

    kafka.kill().unwrap();
    cassandra.kill().unwrap();
    assert!(!kafka.is_running() && probe::kafka(kafka.address().parse().unwrap()).is_err());
    let started = Instant::now();
    kafka.start().unwrap();
    report("Kafka again after SIGKILL", started);
    let started = Instant::now();
    cassandra.start().unwrap();
    report("Cassandra again after SIGKILL", started);
    assert_ne!(first_pids, (kafka.pid().unwrap(), cassandra.pid().unwrap()));
    assert!(contains(&run_cql(&cassandra, "SELECT id FROM k.t"), "kept-over-kill"));

    let started = Instant::now();
    kafka.restart().unwrap();
    report("Kafka restarted", started);
    let last_pids = [kafka.pid().unwrap(), cassandra.pid().unwrap()];
    let started = Instant::now();
    drop((kafka, cassandra));
    report("both stopped", started);
    assert!(last_pids.into_iter().all(is_gone));
}

fn launcher_runs_a_command_and_leaves_nothing() {
    // Of two that it leaves behind, one has ended by itself before the command does.
    let script = "echo kafka=$POLYBOLOS_TEST_KAFKA cassandra=$POLYBOLOS_TEST_CASSANDRA
        setsid sleep 300 & echo orphan=$!
        ended=$(sh -c 'setsid true > /dev/null & echo $!')
        while grep -qs '^State:.[^Z]' /proc/$ended/status; do sleep 0.05; done
        exit 5";
    let mut launcher = launcher(&["--only", "kafka", "--", "sh", "-c", script]);
    let ready = launcher.wait_ready(START).unwrap();
    let address = ready.strip_prefix("ready kafka=").expect("the ready line names Kafka");
    assert_eq!(launcher.wait_exit(SOON).unwrap().code(), Some(5));
    let output = launcher.stdout().unwrap();
    assert!(output.contains(&format!("kafka={address} cassandra=\n")), "{output}");
    let orphan = output.lines().find_map(|line| line.strip_prefix("orphan=")).unwrap();
    assert!(is_gone(orphan.parse().unwrap()), "what the command left behind is ended");
    let log = launcher.stderr().unwrap();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("left a process behind")).collect();
    assert!(told.len() == 1 && told[0].contains(orphan) && told[0].contains("sleep 300"), "{log}");
    assert!(probe::kafka(address.parse().unwrap()).is_err());
}

fn launcher_that_is_killed_takes_its_servers_along() {
    let mut launcher = launcher(&["--only", "kafka"]);
    launcher.wait_ready(START).unwrap();
    let servers = children(launcher.pid());
    assert_eq!(servers.len(), 1);
    launcher.kill().unwrap();
    wait_until("the server's end", SOON, || is_gone(servers[0])).unwrap();

    let mut launcher = self::launcher(&["--only", "kafka"]);
    launcher.wait_ready(START).unwrap();
    let servers = children(launcher.pid());
    launcher.interrupt().unwrap();
    assert_eq!(launcher.wait_exit(SOON).unwrap().code(), Some(0));
    assert!(is_gone(servers[0]));

    let mut launcher = self::launcher(&["--only", "cassandra"]);
    wait_until("a Cassandra on its way", SOON, || !children(launcher.pid()).is_empty()).unwrap();
    launcher.signal(rustix::process::Signal::TERM).unwrap();
    assert!(launcher.wait_exit(SOON).unwrap().success(), "it can be ended while it starts");
}

fn launcher(args: &[&str]) -> Process {
    let program = Path::new(env!("CARGO_BIN_EXE_polybolos-local-servers"));
    ProcessSpec::new("launcher", program).args(args).spawn().unwrap()
}

fn run_cql(server: &LocalServer, statement: &str) -> Vec<u8> {
    // The first answers after a start may be slow on a busy machine; every statement here may be run twice.
    let mut answer = Err(std::io::ErrorKind::NotFound.into());
    let outcome = wait_until(statement, SOON, || {
        answer = probe::cql(server.address().parse().unwrap(), CASSANDRA_USER, CASSANDRA_PASSWORD, statement);
        matches!(&answer, Err(error) if error.to_string().contains("lready exist")) || answer.is_ok()
    });
    outcome.unwrap_or_else(|_| panic!("{statement}: {answer:?}"));
    answer.unwrap_or_default()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

fn report(what: &str, since: Instant) {
    println!("{what}: {:.1} s", since.elapsed().as_secs_f64());
}
