//! TLS of the doors, from one certificate chain and its key. Each door speaks it its own way: PostgreSQL after its SSLRequest, Flight SQL
//! and HTTP from the first byte.
use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::serve::Listener;
use datafusion_postgres::pgwire::tokio::{TlsAcceptor, tokio_rustls::server::TlsStream};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tonic::transport::{Identity, ServerTlsConfig};

/// A client that does not finish its handshake is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections that have finished their handshake and wait for the server.
const WAITING: usize = 64;

/// Out of file descriptors, most likely: others close soon.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read the TLS file {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the TLS file {path} is not usable: {message}; it must be PEM")]
    Unusable { path: PathBuf, message: String },
    #[error("certificate {path} and its key do not go together: {source}")]
    Mismatch { path: PathBuf, source: rustls::Error },
}

/// A certificate chain and its private key, read once.
#[derive(Clone)]
pub struct DoorTls {
    certificate_pem: Vec<u8>,
    key_pem: Vec<u8>,
    config: Arc<ServerConfig>,
}

impl fmt::Debug for DoorTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorTls").finish_non_exhaustive()
    }
}

impl DoorTls {
    /// Reads PEM files; that they fit together is checked here, not at the first connection.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        let unusable = |path: &Path, message: String| TlsError::Unusable { path: path.to_owned(), message };
        let (certificate_pem, key_pem) = (read(certificate)?, read(key)?);
        let chain = CertificateDer::pem_slice_iter(&certificate_pem).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| unusable(certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(unusable(certificate, "it has no certificate".into()));
        }
        let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| unusable(key, error.to_string()))?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private);
        let config = config.map_err(|source| TlsError::Mismatch { path: certificate.to_owned(), source })?;
        Ok(Self { certificate_pem, key_pem, config: Arc::new(config) })
    }

    pub fn postgres(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    pub fn flight_sql(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(Identity::from_pem(&self.certificate_pem, &self.key_pem))
    }

    pub fn http(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// Accepts TLS connections. Handshakes run beside each other, so a slow client holds nobody up.
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    pub fn new(listener: TcpListener, config: Arc<ServerConfig>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(WAITING);
        tokio::spawn(accept(listener, TlsAcceptor::from(config), sender));
        Ok(Self { address, ready })
    }
}

/// Until the other end is dropped.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>) {
    loop {
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a TLS connection could not be accepted");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => {
                    // Nobody waits when the server stops.
                    let _ = ready.send((stream, peer)).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The accepting task ends only after this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}
