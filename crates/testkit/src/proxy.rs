//! A TCP proxy on loopback that breaks connections on purpose: it cuts, refuses, delays and holds back.
//!
//! It runs on a thread of its own, so it works in plain tests and while a test blocks its runtime. What is random is drawn
//! from a seed. It counts what it did, so that a test can assert that its fault really happened.
use crate::error::{Error, Result};
use crate::ports::free_ports;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// One read. Small, so that delays and random cuts hit in the middle of messages.
const CHUNK_BYTES: usize = 16 * 1024;
/// How many chunks may be on their way in one direction of one connection: 4 MB, then the sender feels it.
const CHUNKS_IN_FLIGHT: usize = 256;
/// The proxy's own thread answers at once; a bind or a cut takes no time.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
const PENDING_COMMANDS: usize = 16;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: requests.
    ToServer,
    /// From the server to the client: answers.
    ToClient,
}

/// What a proxy has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Connections that clients opened.
    pub accepted: u64,
    /// Connections that were closed by [`FaultProxy::cut_all`] or at random.
    pub cut: u64,
    /// How often the proxy stopped listening.
    pub refusals: u64,
    /// Chunks that were delayed.
    pub delayed: u64,
    /// Chunks that had to wait in a black hole.
    pub held: u64,
    /// Connections for which the server could not be reached.
    pub unreachable: u64,
    pub bytes_to_server: u64,
    pub bytes_to_client: u64,
}

/// A proxy in front of one server. Dropping it closes all its connections.
pub struct FaultProxy {
    address: SocketAddr,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// What the connections of a proxy look at.
struct Shared {
    faults: watch::Sender<Faults>,
    counters: Counters,
    seed: u64,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    /// Connections that were opened in an earlier era are to be closed.
    era: u64,
    delay: Duration,
    jitter: Duration,
    /// Of a thousand chunks, how many end their connection instead.
    cut_per_mille: u32,
    hold_to_server: bool,
    hold_to_client: bool,
}

impl Faults {
    fn holds(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToServer => self.hold_to_server,
            Direction::ToClient => self.hold_to_client,
        }
    }
}

#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    cut: AtomicU64,
    refusals: AtomicU64,
    delayed: AtomicU64,
    held: AtomicU64,
    unreachable: AtomicU64,
    bytes_to_server: AtomicU64,
    bytes_to_client: AtomicU64,
}

enum Command {
    Listen(std::sync::mpsc::SyncSender<io::Result<()>>),
    Refuse(std::sync::mpsc::SyncSender<io::Result<()>>),
}

impl FaultProxy {
    /// A proxy on a free port in front of `upstream` (`host:port`).
    pub fn start(upstream: &str, seed: u64) -> Result<Self> {
        Self::start_on(free_ports(1)?[0], upstream, seed)
    }

    /// A proxy on a port chosen before, for servers that must be told of it before they start (Kafka).
    pub fn start_on(port: u16, upstream: &str, seed: u64) -> Result<Self> {
        let failed = |action, source| Error::Proxy { upstream: upstream.to_owned(), action, source };
        let mut addresses = upstream.to_socket_addrs().map_err(|source| failed("resolve it", source))?;
        let server = addresses.next().ok_or_else(|| failed("resolve it", io::ErrorKind::NotFound.into()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let shared = Arc::new(Shared { faults: watch::Sender::default(), counters: Counters::default(), seed });
        let (commands, inbox) = mpsc::channel(PENDING_COMMANDS);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| failed("start", source))?;
        let listening = Listening { address, server, shared: Arc::clone(&shared), inbox };
        std::thread::Builder::new()
            .name(format!("fault-proxy-{port}"))
            // When `run` returns, the runtime goes, and with it all connections.
            .spawn(move || runtime.block_on(listening.run()))
            .map_err(|source| failed("start", source))?;
        let proxy = Self { address, commands, shared };
        proxy.command(Command::Listen).map_err(|source| failed("listen", source))?;
        Ok(proxy)
    }

    /// Where clients connect: `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Closes every connection that is open now; what was on its way is lost. New ones are let in.
    pub fn cut_all(&self) {
        self.shared.faults.send_modify(|faults| faults.era += 1);
    }

    /// New connections are refused (the port is closed). Open ones live on: see [`FaultProxy::cut_all`].
    pub fn refuse(&self) -> Result<()> {
        self.command(Command::Refuse).map_err(|source| self.failed("stop listening", source))
    }

    /// Listens again after [`FaultProxy::refuse`].
    pub fn accept(&self) -> Result<()> {
        self.command(Command::Listen).map_err(|source| self.failed("listen again", source))
    }

    /// Everything arrives later by `delay` and a random part of `jitter`, in order, in both directions.
    pub fn delay(&self, delay: Duration, jitter: Duration) {
        self.shared.faults.send_modify(|faults| (faults.delay, faults.jitter) = (delay, jitter));
    }

    /// Of a thousand chunks (up to 16 KiB), this many close their connection instead of arriving.
    pub fn cut_at_random(&self, per_mille: u32) {
        self.shared.faults.send_modify(|faults| faults.cut_per_mille = per_mille);
    }

    /// Nothing gets through in this direction and nothing is closed, as when the network is gone; connecting still succeeds.
    /// After [`FaultProxy::heal`] what was held goes on, as TCP would resend it; with [`FaultProxy::cut_all`] it is lost: hold the
    /// answers, then cut, and the server has done what the client will never know of.
    pub fn hold(&self, direction: Direction) {
        self.shared.faults.send_modify(|faults| match direction {
            Direction::ToServer => faults.hold_to_server = true,
            Direction::ToClient => faults.hold_to_client = true,
        });
    }

    /// [`FaultProxy::hold`] in both directions.
    pub fn black_hole(&self) {
        self.hold(Direction::ToServer);
        self.hold(Direction::ToClient);
    }

    /// No more delay, holding or random cuts. (A closed port stays closed: [`FaultProxy::accept`].)
    pub fn heal(&self) {
        self.shared.faults.send_modify(|faults| *faults = Faults { era: faults.era, ..Faults::default() });
    }

    /// What it has done so far.
    pub fn counts(&self) -> FaultCounts {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FaultCounts {
            accepted: get(&counters.accepted),
            cut: get(&counters.cut),
            refusals: get(&counters.refusals),
            delayed: get(&counters.delayed),
            held: get(&counters.held),
            unreachable: get(&counters.unreachable),
            bytes_to_server: get(&counters.bytes_to_server),
            bytes_to_client: get(&counters.bytes_to_client),
        }
    }

    /// Hands a command to the proxy's thread without asking the caller's runtime (if any) to do anything.
    fn command(&self, command: impl FnOnce(std::sync::mpsc::SyncSender<io::Result<()>>) -> Command) -> io::Result<()> {
        let (done, answer) = std::sync::mpsc::sync_channel(1);
        self.commands.try_send(command(done)).map_err(|_| io::Error::other("its thread is busy or gone"))?;
        answer.recv_timeout(COMMAND_DEADLINE).map_err(|_| io::Error::other("its thread does not answer"))?
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::Proxy { upstream: self.address(), action, source }
    }
}

/// The proxy's own side: the port, and the connections that come in.
struct Listening {
    address: SocketAddr,
    server: SocketAddr,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Command>,
}

impl Listening {
    async fn run(mut self) {
        let mut listener = None;
        let mut number = 0;
        loop {
            tokio::select! {
                command = self.inbox.recv() => match command {
                    None => return,
                    Some(Command::Refuse(done)) => {
                        listener = None;
                        count(&self.shared.counters.refusals, 1);
                        let _ = done.try_send(Ok(()));
                    }
                    Some(Command::Listen(done)) => {
                        let bound = if listener.is_none() { TcpListener::bind(self.address).await.map(Some) } else { Ok(listener) };
                        let answer = match bound {
                            Ok(bound) => {
                                listener = bound;
                                Ok(())
                            }
                            Err(error) => {
                                listener = None;
                                Err(error)
                            }
                        };
                        let _ = done.try_send(answer);
                    }
                },
                client = accept(&listener) => {
                    count(&self.shared.counters.accepted, 1);
                    number += 1;
                    let connection = Connection { number, shared: Arc::clone(&self.shared) };
                    tokio::spawn(connection.run(client, self.server));
                }
            }
        }
    }
}

/// The next client; never, while the port is closed.
async fn accept(listener: &Option<TcpListener>) -> TcpStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            // A client that gave up, or no file descriptors: the next may do better.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[derive(Clone)]
struct Connection {
    number: u64,
    shared: Arc<Shared>,
}

impl Connection {
    async fn run(self, client: TcpStream, server: SocketAddr) {
        let faults = self.shared.faults.subscribe();
        let era = faults.borrow().era;
        let Ok(upstream) = TcpStream::connect(server).await else {
            count(&self.shared.counters.unreachable, 1);
            return;
        };
        // Delays are ours to make, not Nagle's.
        let _ = client.set_nodelay(true);
        let _ = upstream.set_nodelay(true);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = upstream.into_split();
        let mut cut = faults.clone();
        tokio::select! {
            _ = cut.wait_for(|faults| faults.era != era) => count(&self.shared.counters.cut, 1),
            ended = async {
                tokio::try_join!(
                    self.carry(Direction::ToServer, from_client, to_server),
                    self.carry(Direction::ToClient, from_server, to_client),
                )
            } => if matches!(ended, Err(End::CutAtRandom)) {
                count(&self.shared.counters.cut, 1);
            },
        }
    }

    /// Carries one direction to its end: a reader that notes when each chunk is due, and a writer that waits for that time.
    async fn carry(&self, direction: Direction, from: OwnedReadHalf, to: OwnedWriteHalf) -> Result<(), End> {
        let (chunks, due) = mpsc::channel(CHUNKS_IN_FLIGHT);
        tokio::try_join!(self.read(direction, from, chunks), self.write(direction, to, due)).map(drop)
    }

    async fn read(
        &self,
        direction: Direction,
        mut from: OwnedReadHalf,
        chunks: mpsc::Sender<(Instant, Vec<u8>)>,
    ) -> Result<(), End> {
        let stream = self.number * 2 + u64::from(direction == Direction::ToClient);
        let mut random = ChaCha8Rng::seed_from_u64(self.shared.seed);
        random.set_stream(stream);
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = from.read(&mut buffer).await.map_err(|_| End::Broken)?;
            if length == 0 {
                return Ok(());
            }
            let faults = self.shared.faults.borrow().clone();
            if faults.cut_per_mille > 0 && random.random_range(0..1000) < faults.cut_per_mille {
                return Err(End::CutAtRandom);
            }
            let late = faults.delay + faults.jitter.mul_f64(random.random());
            if !late.is_zero() {
                count(&self.shared.counters.delayed, 1);
            }
            let chunk = (Instant::now() + late, buffer[..length].to_vec());
            chunks.send(chunk).await.map_err(|_| End::Broken)?;
        }
    }

    async fn write(
        &self,
        direction: Direction,
        mut to: OwnedWriteHalf,
        mut chunks: mpsc::Receiver<(Instant, Vec<u8>)>,
    ) -> Result<(), End> {
        let mut faults = self.shared.faults.subscribe();
        // Chunks of different delay stay in order, as their channel does.
        while let Some((due, chunk)) = chunks.recv().await {
            tokio::time::sleep_until(due).await;
            if faults.borrow().holds(direction) {
                count(&self.shared.counters.held, 1);
                faults.wait_for(|faults| !faults.holds(direction)).await.map_err(|_| End::Broken)?;
            }
            let counters = &self.shared.counters;
            let bytes = if direction == Direction::ToServer { &counters.bytes_to_server } else { &counters.bytes_to_client };
            // Before they go: whoever has the answer to them sees them counted.
            count(bytes, chunk.len() as u64);
            to.write_all(&chunk).await.map_err(|_| End::Broken)?;
        }
        // The sender's end of the stream, passed on; the other direction may go on.
        to.shutdown().await.map_err(|_| End::Broken)
    }
}

/// Why a connection ended otherwise than by both sides' closing it.
#[derive(Debug)]
enum End {
    Broken,
    CutAtRandom,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
