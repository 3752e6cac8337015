//! PostgreSQL's wire protocol on port 7432, for psql, drivers, Grafana. Statements go to the engine; what only concerns the session or
//! PostgreSQL's own catalog (SET, BEGIN, `pg_catalog`, `information_schema`, SELECT without FROM) is answered here, see [`route`] and
//! [`catalog`].
mod answer;
mod catalog;
mod functions;
mod keys;
mod login;
mod numeric;
mod parameters;
mod query;
mod reflection;
mod relations;
mod rewrite;
mod route;
mod session;
mod shown;
mod tables;
pub(crate) mod views;

use std::{io, sync::Arc, time::Duration};

use datafusion_postgres::pgwire::{
    api::{
        ClientInfo, ConnectionManager, ErrorHandler, PgWireServerHandlers,
        auth::StartupHandler,
        cancel::{CancelHandler, DefaultCancelHandler},
        query::{ExtendedQueryHandler, SimpleQueryHandler},
    },
    error::{ErrorInfo, PgWireError},
    tokio::{TlsAcceptor, process_socket},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    auth::Authenticate,
    engine::{Engine, GOES_ON},
    error::{CANCELLED, EngineError, ErrorKind},
};

/// The only database.
pub const DATABASE: &str = "polybolos";
/// PostgreSQL's own default is 100.
const MAX_CONNECTIONS: usize = 128;
/// Connections beyond these that are told so at once; more are closed without a word.
const MAX_REFUSED: usize = 32;
/// A client that is refused has so long to say hello and to read why.
const REFUSAL: Duration = Duration::from_secs(10);

/// Serves until `stop` is cancelled. Without `tls`, only connections of this machine can log in.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<dyn Engine>,
    login: Arc<dyn Authenticate>,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let handlers = Handlers::new(engine, login).map_err(io::Error::other)?;
    let refusing = Arc::new(handlers.refusing());
    let acceptor = tls.map(TlsAcceptor::from);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSED));
    let tasks = TaskTracker::new();
    info!(address = %listener.local_addr()?, tls = acceptor.is_some(), "PostgreSQL door open");
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others close soon.
                warn!(%error, "PostgreSQL door: a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, stop) = (acceptor.clone(), stop.clone());
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            warn!(%peer, limit = MAX_CONNECTIONS, "PostgreSQL door: too many connections, one was refused");
            if let Ok(permit) = refusals.clone().try_acquire_owned() {
                let refusing = refusing.clone();
                tasks.spawn(async move {
                    let told = tokio::time::timeout(REFUSAL, process_socket(socket, acceptor, refusing));
                    // Whoever goes away before it is told does not want to know.
                    let _ = stop.run_until_cancelled(told).await;
                    drop(permit);
                });
            }
            continue;
        };
        let end = stop.child_token();
        let handlers = Arc::new(handlers.ending(end.clone()));
        tasks.spawn(async move {
            if let Some(Err(error)) = end.run_until_cancelled(process_socket(socket, acceptor, handlers)).await {
                debug!(%peer, %error, "PostgreSQL door: a connection broke");
            }
            drop(permit);
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

struct Handlers<S> {
    startup: Arc<S>,
    query: Arc<query::Queries>,
    cancel: Arc<DefaultCancelHandler>,
}

impl Handlers<login::Login> {
    fn new(engine: Arc<dyn Engine>, login: Arc<dyn Authenticate>) -> Result<Self, EngineError> {
        let connections = Arc::new(ConnectionManager::new());
        Ok(Self {
            startup: Arc::new(login::Login::new(login, connections.clone())),
            query: Arc::new(query::Queries::new(engine)?),
            cancel: Arc::new(DefaultCancelHandler::new(connections)),
        })
    }

    /// The same for one connection, whose login ends it with `end` when it fails.
    fn ending(&self, end: CancellationToken) -> Handlers<login::Attempt> {
        let startup = Arc::new(login::Attempt { login: self.startup.clone(), end });
        Handlers { startup, query: self.query.clone(), cancel: self.cancel.clone() }
    }

    /// The same for a connection too many. It may still cancel a statement of another one, which is when that is needed most.
    fn refusing(&self) -> Handlers<login::Full> {
        Handlers { startup: Arc::new(login::Full), query: self.query.clone(), cancel: self.cancel.clone() }
    }
}

impl<S: StartupHandler + 'static> PgWireServerHandlers for Handlers<S> {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        self.query.clone()
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        self.query.clone()
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        self.startup.clone()
    }

    fn error_handler(&self) -> Arc<impl ErrorHandler> {
        Arc::new(Errors)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        self.cancel.clone()
    }
}

/// Kept of a connection: what it runs in the engine, of which it is asked after a cancellation whether it goes on.
struct Running(Option<(Arc<dyn Engine>, String)>);

/// Gives errors of the catalog's own queries our codes; the engine's have them already. Says what goes on after it was cancelled.
struct Errors;

impl ErrorHandler for Errors {
    fn on_error<C>(&self, client: &C, error: &mut PgWireError)
    where
        C: ClientInfo,
    {
        if matches!(error, PgWireError::QueryCanceled) {
            *error = report(EngineError::new(ErrorKind::Cancelled, error.to_string()));
        }
        let ran = client.session_extensions().insert(Running(None));
        if let PgWireError::UserError(info) = error
            && info.code == CANCELLED
            && let Some((engine, sql)) = ran.as_ref().and_then(|ran| ran.0.as_ref())
            && engine.outlives_call(sql)
        {
            info.hint = Some(GOES_ON.to_owned());
        }
        // The session's hook says 25P01, which is that there is no block.
        if let PgWireError::UserError(info) = error
            && info.message == query::FAILED_BLOCK
        {
            info.code = query::IN_FAILED_BLOCK.to_owned();
        }
        if let PgWireError::ApiError(source) = error {
            let message = source.to_string();
            let known = std::mem::replace(source, "replaced".into()).downcast::<datafusion::error::DataFusionError>();
            *error = report(known.map_or_else(|_| EngineError::new(ErrorKind::Failed, message), |error| EngineError::from(*error)));
        }
        debug!(%error, "PostgreSQL door: a statement failed");
    }
}

/// An error with PostgreSQL's code, and the remedy as its hint.
fn report(error: EngineError) -> PgWireError {
    let mut info = ErrorInfo::new("ERROR".to_owned(), error.sqlstate().to_owned(), error.message);
    info.hint = error.hint;
    PgWireError::UserError(Box::new(info))
}
