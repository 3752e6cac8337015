//! The exchange of rows with other executors: takes parcels for parts that run here, and sends those of parts that run here to the others.
use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use anyhow::Context;
use async_trait::async_trait;
use parking_lot::Mutex;
use polybolos_operators::{
    epoch::peers::{Parcel, PeerLink},
    services::ExecutorServices,
};
use polybolos_proto::executor::v1::{
    PassRequest, PassResponse,
    executor_exchange_service_client::ExecutorExchangeServiceClient,
    executor_exchange_service_server::{ExecutorExchangeService, ExecutorExchangeServiceServer},
};
use polybolos_streaming::ids::{Attempt, Epoch, Generation, Incarnation, PartIndex};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

/// A parcel is at most as large as an epoch, and those are bounded; what is larger fails, and the epoch is tried again with fewer records.
const MOST_BYTES: usize = 1 << 30;

/// What HTTP/2 lets travel before it is taken; its own default stops a large parcel many times.
const WINDOW_BYTES: u32 = 8 << 20;

const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Takes parcels on a port of its own until `shutdown`; answers the port.
pub async fn serve(host: IpAddr, services: Arc<ExecutorServices>, shutdown: CancellationToken) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((host, 0)).await.context("no free port for the exchange of rows")?;
    let port = listener.local_addr()?.port();
    let service = ExecutorExchangeServiceServer::new(Exchange(services)).max_decoding_message_size(MOST_BYTES);
    let server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(service);
    tokio::spawn(async move {
        let ended = server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.cancelled_owned()).await;
        if let Err(error) = ended {
            tracing::error!(%error, "the exchange of rows ended; jobs that several executors share cannot run here");
        }
    });
    Ok(port)
}

struct Exchange(Arc<ExecutorServices>);

#[async_trait]
impl ExecutorExchangeService for Exchange {
    async fn pass(&self, request: Request<PassRequest>) -> Result<Response<PassResponse>, Status> {
        let request = request.into_inner();
        let part = |number: u32| {
            u16::try_from(number).map(PartIndex).map_err(|_| Status::invalid_argument(format!("there is no part {number}")))
        };
        self.0.mailboxes.deliver(Parcel {
            from: part(request.from_part)?,
            to: part(request.to_part)?,
            incarnation: Incarnation(request.incarnation),
            generation: Generation(request.generation),
            epoch: Epoch(request.epoch),
            attempt: Attempt(request.attempt),
            step: request.step,
            rows: request.rows,
        });
        Ok(Response::new(PassResponse {}))
    }
}

/// Connections to other executors, each made when it is first needed.
#[derive(Debug, Default)]
pub struct Connections {
    known: Mutex<HashMap<String, Channel>>,
}

impl Connections {
    fn to(&self, address: &str) -> Result<Channel, String> {
        if let Some(channel) = self.known.lock().get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
        let channel = endpoint
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .connect_lazy();
        Ok(self.known.lock().entry(address.to_owned()).or_insert(channel).clone())
    }
}

#[async_trait]
impl PeerLink for Connections {
    async fn send(&self, address: &str, parcel: Parcel) -> Result<(), String> {
        let mut client = ExecutorExchangeServiceClient::new(self.to(address)?).max_encoding_message_size(MOST_BYTES);
        let request = PassRequest {
            incarnation: parcel.incarnation.0,
            generation: parcel.generation.0,
            epoch: parcel.epoch.0,
            attempt: parcel.attempt.0,
            from_part: parcel.from.0.into(),
            to_part: parcel.to.0.into(),
            step: parcel.step,
            rows: parcel.rows,
        };
        match client.pass(request).await {
            Ok(_) => Ok(()),
            Err(status) => {
                // Addresses do not come back: an executor that starts anew has another port.
                self.known.lock().remove(address);
                Err(status.message().replace('\n', " "))
            }
        }
    }
}
