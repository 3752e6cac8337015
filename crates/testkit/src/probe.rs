//! Asks a server whether it really serves: an open port alone says little of either of them.
//!
//! A few bytes of both wire protocols, written by hand so that this crate needs no client library: Kafka's ApiVersions and
//! Metadata, Cassandra's password login and QUERY. Errors are texts for the message of a wait that fails.
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer takes milliseconds; a server that stops in the middle of one is asked again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Beyond any answer to these questions: what is longer is not the protocol that we think it is.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

const KAFKA_METADATA: (i16, i16) = (3, 1);
const KAFKA_API_VERSIONS: (i16, i16) = (18, 0);

const CQL_VERSION: u8 = 4;
const CQL_ERROR: u8 = 0x00;
const CQL_STARTUP: u8 = 0x01;
const CQL_READY: u8 = 0x02;
const CQL_AUTHENTICATE: u8 = 0x03;
const CQL_QUERY: u8 = 0x07;
const CQL_AUTH_RESPONSE: u8 = 0x0f;
const CQL_AUTH_SUCCESS: u8 = 0x10;
const CQL_CONSISTENCY_ONE: u16 = 1;

/// Whether a Kafka broker answers, knows its protocol, and has been let into its cluster by the controller.
pub fn kafka(address: SocketAddr) -> Result<(), String> {
    let ask = || -> io::Result<i32> {
        let mut stream = connect(address)?;
        kafka_request(&mut stream, KAFKA_API_VERSIONS, &[])?;
        // No topics: only the brokers are of interest.
        let answer = kafka_request(&mut stream, KAFKA_METADATA, &0_i32.to_be_bytes())?;
        let brokers = answer.get(4..8).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(i32::from_be_bytes([brokers[0], brokers[1], brokers[2], brokers[3]]))
    };
    match ask() {
        Ok(brokers) if brokers > 0 => Ok(()),
        Ok(_) => Err("the broker has not joined its cluster yet".to_owned()),
        Err(error) => Err(format!("Kafka at {address}: {error}")),
    }
}

/// Whether a Cassandra node lets this user in.
pub fn cassandra(address: SocketAddr, user: &str, password: &str) -> Result<(), String> {
    cql_login(address, user, password).map(drop).map_err(|error| format!("Cassandra at {address}: {error}"))
}

/// Runs one CQL statement and returns the raw body of the answer (the native protocol's RESULT message).
pub fn cql(address: SocketAddr, user: &str, password: &str, statement: &str) -> io::Result<Vec<u8>> {
    let mut stream = cql_login(address, user, password)?;
    let mut body = (u32::try_from(statement.len()).map_err(io::Error::other)?).to_be_bytes().to_vec();
    body.extend(statement.as_bytes());
    body.extend(CQL_CONSISTENCY_ONE.to_be_bytes());
    body.push(0);
    let (_, answer) = cql_request(&mut stream, CQL_QUERY, &body)?;
    Ok(answer)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
    Ok(stream)
}

/// Sends a request of the given (key, version) and returns the answer, correlation id included.
fn kafka_request(stream: &mut TcpStream, (key, version): (i16, i16), body: &[u8]) -> io::Result<Vec<u8>> {
    const CORRELATION_ID: i32 = 1;
    const NO_CLIENT_ID: i16 = -1;
    let mut message = Vec::new();
    message.extend(key.to_be_bytes());
    message.extend(version.to_be_bytes());
    message.extend(CORRELATION_ID.to_be_bytes());
    message.extend(NO_CLIENT_ID.to_be_bytes());
    message.extend(body);
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&message)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    read_body(stream, u32::from_be_bytes(length))
}

fn cql_login(address: SocketAddr, user: &str, password: &str) -> io::Result<TcpStream> {
    let mut stream = connect(address)?;
    let mut startup = 1_u16.to_be_bytes().to_vec();
    for text in ["CQL_VERSION", "3.0.0"] {
        startup.extend((text.len() as u16).to_be_bytes());
        startup.extend(text.as_bytes());
    }
    match cql_request(&mut stream, CQL_STARTUP, &startup)? {
        (CQL_READY, _) => return Ok(stream),
        (CQL_AUTHENTICATE, _) => {}
        (opcode, _) => return Err(io::Error::other(format!("unexpected answer {opcode} to STARTUP"))),
    }
    // SASL PLAIN: no authorisation id, then user and password.
    let token = format!("\0{user}\0{password}");
    let mut response = (token.len() as u32).to_be_bytes().to_vec();
    response.extend(token.as_bytes());
    match cql_request(&mut stream, CQL_AUTH_RESPONSE, &response)? {
        (CQL_AUTH_SUCCESS, _) => Ok(stream),
        (opcode, _) => Err(io::Error::other(format!("unexpected answer {opcode} to the login"))),
    }
}

/// Sends a frame and returns the answer's opcode and body; an ERROR message becomes an error with its text.
fn cql_request(stream: &mut TcpStream, opcode: u8, body: &[u8]) -> io::Result<(u8, Vec<u8>)> {
    let mut frame = vec![CQL_VERSION, 0, 0, 0, opcode];
    frame.extend(u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes());
    frame.extend(body);
    stream.write_all(&frame)?;
    let mut header = [0; 9];
    stream.read_exact(&mut header)?;
    let length = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    let body = read_body(stream, length)?;
    if header[4] == CQL_ERROR {
        // A code of four bytes, a length of two, the text.
        return Err(io::Error::other(String::from_utf8_lossy(body.get(6..).unwrap_or_default()).into_owned()));
    }
    Ok((header[4], body))
}

fn read_body(stream: &mut TcpStream, length: u32) -> io::Result<Vec<u8>> {
    let length = length as usize;
    if length > MAX_ANSWER_BYTES {
        return Err(io::Error::other(format!("an answer of {length} bytes: this is another protocol")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}
