//! `GetSchema`, which `arrow-flight` leaves out of the service that it makes of Flight SQL: the schema alone of what a command answers,
//! as ADBC's `execute_schema` and Arrow's Java client ask for it. Nothing is run.
use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, PollInfo, SchemaResult, Ticket,
    flight_service_server::FlightService,
    sql::{Any, Command},
};
use prost::{Message, bytes::Bytes};
use tonic::{Request, Response, Status, Streaming};

use super::FlightSqlDoor;

/// Every other call is the door's own.
pub struct WithSchemas(pub FlightSqlDoor);

#[tonic::async_trait]
impl FlightService for WithSchemas {
    type HandshakeStream = <FlightSqlDoor as FlightService>::HandshakeStream;
    type ListFlightsStream = <FlightSqlDoor as FlightService>::ListFlightsStream;
    type DoGetStream = <FlightSqlDoor as FlightService>::DoGetStream;
    type DoPutStream = <FlightSqlDoor as FlightService>::DoPutStream;
    type DoActionStream = <FlightSqlDoor as FlightService>::DoActionStream;
    type ListActionsStream = <FlightSqlDoor as FlightService>::ListActionsStream;
    type DoExchangeStream = <FlightSqlDoor as FlightService>::DoExchangeStream;

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let principal = self.0.principal(&request)?;
        let command = Any::decode(&*request.get_ref().cmd).map_err(|error| not_a_command(&error))?;
        let command = Command::try_from(command).map_err(|error| not_a_command(&error))?;
        let statement: Bytes = match command {
            Command::CommandStatementQuery(query) => query.query.into(),
            Command::CommandPreparedStatementQuery(query) => query.prepared_statement_handle,
            // Commands about the catalog read nothing before their rows are asked for.
            _ => {
                let info = self.0.get_flight_info(request).await?;
                return Ok(info.map(|info| SchemaResult { schema: info.schema }));
            }
        };
        let schema = self.0.schema(&principal, &statement).await?;
        Ok(Response::new(SchemaResult { schema }))
    }

    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Result<Response<Self::HandshakeStream>, Status> {
        self.0.handshake(request).await
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        self.0.list_flights(request).await
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        self.0.get_flight_info(request).await
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        self.0.poll_flight_info(request).await
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.0.do_get(request).await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        self.0.do_put(request).await
    }

    async fn do_exchange(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.0.do_exchange(request).await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        self.0.do_action(request).await
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        self.0.list_actions(request).await
    }
}

fn not_a_command(error: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(format!("GetSchema takes a command of Flight SQL: {error}"))
}
