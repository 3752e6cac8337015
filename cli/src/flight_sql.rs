//! Reads a query's rows by the platform's Flight SQL door: as they come, and as many as there are. The HTTP door answers at once, and so bounds its answers.
use std::{error::Error, time::Duration};

use anyhow::Context;
use arrow_flight::{
    decode::FlightRecordBatchStream, error::FlightError, flight_service_client::FlightServiceClient,
    sql::client::FlightSqlServiceClient,
};
use futures::TryStreamExt;
use polybolos_gateway::{flight_sql::NOTICE_NAME, http::rows};
use polybolos_service::exit::{Exit, Failure, chained};
use serde_json::Value;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::client::Column;

/// A platform that does not answer a sign of life for so long is gone, however long the statement runs.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct FlightSql {
    /// host:port.
    pub address: String,
    pub token: String,
    /// The certificate authority in PEM, where the door speaks TLS.
    pub authority: Option<Vec<u8>>,
}

/// Rows that are on their way.
pub struct Answer {
    pub columns: Vec<Column>,
    batches: FlightRecordBatchStream,
}

impl FlightSql {
    pub async fn query(&self, sql: &str) -> anyhow::Result<Answer> {
        // A row has no limit of its own.
        let flight = FlightServiceClient::new(self.dial().await?).max_decoding_message_size(usize::MAX);
        let mut client = FlightSqlServiceClient::new_from_inner(flight);
        client.set_token(self.token.clone());
        let info = client.execute(sql.to_owned(), None).await.map_err(failed)?;
        let ticket = info.endpoint.first().and_then(|endpoint| endpoint.ticket.clone());
        let ticket = ticket.context("the platform gave no ticket for the rows; it may be of another version")?;
        let schema = info.try_decode_schema()?;
        let columns = schema.fields().iter().map(|field| Column { name: field.name().clone() }).collect();
        Ok(Answer { columns, batches: client.do_get(ticket).await.map_err(failed)? })
    }

    async fn dial(&self) -> anyhow::Result<Channel> {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://{}", self.address);
        let mut endpoint = Endpoint::from_shared(address.clone()).with_context(|| format!("{address} is no address"))?;
        if let Some(authority) = &self.authority {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)))?;
        }
        let endpoint = endpoint.connect_timeout(PATIENCE).http2_keep_alive_interval(PATIENCE).keep_alive_timeout(PATIENCE);
        endpoint.connect().await.map_err(|error| {
            let why = chained(&error);
            Exit::new(Failure::Unreachable, format!("the platform's Flight SQL door at {address} does not answer: {why}")).into()
        })
    }
}

impl Answer {
    /// The next rows; `None` after the last.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<Vec<Value>>>> {
        let Some(batch) = self.batches.try_next().await.map_err(failed)? else { return Ok(None) };
        let mut found = Vec::with_capacity(batch.num_rows());
        rows::append(&mut found, &batch, usize::MAX)?;
        Ok(Some(found))
    }

    /// What the platform has to tell, once all rows were read.
    pub fn notices(&self) -> Vec<String> {
        let trailers = self.batches.trailers().unwrap_or_default();
        let told = trailers.get_all_bin(NOTICE_NAME).iter().filter_map(|notice| notice.to_bytes().ok());
        told.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }
}

/// What the platform tells is the statement's failure; a status with a source is of a connection that broke.
fn failed(error: FlightError) -> anyhow::Error {
    let exit = match &error {
        FlightError::Tonic(status) => match status.source() {
            None => Exit::new(Failure::Failed, status.message()),
            Some(source) => {
                let why = chained(source);
                Exit::new(Failure::Unreachable, format!("the platform broke off, and not all rows came: {why}; ask again"))
            }
        },
        other => Exit::new(Failure::Failed, format!("rows cannot be read: {other}")),
    };
    exit.into()
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn a_connection_that_broke_is_told_from_a_statement_that_failed() {
        let exit = |status: Status| failed(status.into()).downcast::<Exit>().expect("has a code");
        let refused = exit(Status::not_found("table herd does not exist; did you mean heard?"));
        assert_eq!(
            (refused.failure, refused.message.as_str()),
            (Failure::Failed, "table herd does not exist; did you mean heard?")
        );
        let broken = exit(Status::from_error(Box::new(std::io::Error::other("connection reset"))));
        assert_eq!(broken.failure, Failure::Unreachable);
        assert!(broken.message.contains("connection reset") && broken.message.contains("ask again"), "{broken}");
    }
}
