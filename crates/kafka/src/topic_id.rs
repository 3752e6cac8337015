//! A topic's id, which tells it from another made later under the same name. The client library keeps it to itself, so this asks with one
//! Metadata request (version 10, KIP-516) of its own, over plain TCP. With TLS or a login there is no answer, and other signs (offsets past
//! the end) have to do.
use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use crate::connection::Connection;

const METADATA: i16 = 3;
const VERSION: i16 = 10;
const CORRELATION: i32 = 0x706f_6c79;

/// Per server; without an answer the id is unknown.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Answers of clusters with thousands of brokers are smaller.
const MAX_ANSWER: usize = 16 << 20;

/// From the first bootstrap server that tells.
pub(crate) async fn of(connection: &Connection, topic: &str) -> Option<String> {
    let (connection, topic) = (connection.clone(), topic.to_owned());
    let most = TIMEOUT * (1 + servers(&connection).count() as u32);
    let asked = tokio::task::spawn_blocking(move || Asker::default().of(&connection, &topic));
    // Looking a server's name up has no limit of its own.
    tokio::time::timeout(most, asked).await.ok()?.ok()?.ok()?
}

/// The same for a thread that may block, over a connection that is kept.
#[derive(Default)]
pub(crate) struct Asker {
    stream: Option<TcpStream>,
}

/// Nobody could be asked.
#[derive(Debug)]
pub(crate) struct Unreachable;

impl Asker {
    /// `None`: no broker has such a topic.
    pub fn of(&mut self, connection: &Connection, topic: &str) -> Result<Option<String>, Unreachable> {
        if !connection.is_plaintext() {
            return Err(Unreachable);
        }
        if let Some(Ok(Some(id))) = self.stream.as_mut().map(|stream| ask_over(stream, topic)) {
            return Ok(Some(id));
        }
        self.stream = None;
        let mut answer = Err(Unreachable);
        for server in servers(connection) {
            let asked = connect(server).and_then(|mut stream| Ok((ask_over(&mut stream, topic)?, stream)));
            let Ok((id, stream)) = asked else { continue };
            self.stream = Some(stream);
            if id.is_some() {
                return Ok(id);
            }
            answer = Ok(None);
        }
        answer
    }
}

fn servers(connection: &Connection) -> impl Iterator<Item = &str> {
    connection.bootstrap_servers.split(',').map(str::trim).map(|server| server.strip_prefix("PLAINTEXT://").unwrap_or(server))
}

fn connect(server: &str) -> io::Result<TcpStream> {
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// `None` when the broker does not tell.
fn ask_over(stream: &mut TcpStream, topic: &str) -> io::Result<Option<String>> {
    stream.write_all(&request(topic))?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = usize::try_from(i32::from_be_bytes(size)).ok().filter(|size| *size <= MAX_ANSWER);
    let mut answer = vec![0; size.ok_or(io::ErrorKind::InvalidData)?];
    stream.read_exact(&mut answer)?;
    Ok(parse(&answer, topic))
}

/// With its length in front.
fn request(topic: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + topic.len());
    body.extend(METADATA.to_be_bytes());
    body.extend(VERSION.to_be_bytes());
    body.extend(CORRELATION.to_be_bytes());
    body.extend(9i16.to_be_bytes());
    body.extend(b"polybolos");
    body.push(0);
    // One topic: no id, its name, no tagged fields.
    body.push(2);
    body.extend([0; 16]);
    unsigned_varint(&mut body, topic.len() + 1);
    body.extend(topic.as_bytes());
    body.push(0);
    // Not to be created; no authorized operations of cluster or topic; no tagged fields.
    body.extend([0, 0, 0, 0]);
    let mut message = Vec::with_capacity(4 + body.len());
    message.extend((body.len() as i32).to_be_bytes());
    message.extend(body);
    message
}

fn unsigned_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn parse(answer: &[u8], topic: &str) -> Option<String> {
    let mut reader = Reader { rest: answer };
    if reader.i32()? != CORRELATION {
        return None;
    }
    reader.tags()?;
    reader.i32()?;
    for _ in 0..reader.array()? {
        reader.i32()?;
        reader.string()?;
        reader.i32()?;
        reader.string()?;
        reader.tags()?;
    }
    reader.string()?;
    reader.i32()?;
    if reader.array()? != 1 {
        return None;
    }
    let error = reader.take(2)?;
    let name = reader.string()?;
    let id = reader.take(16)?;
    let told = error == [0, 0] && name == topic.as_bytes() && id.iter().any(|byte| *byte != 0);
    told.then(|| uuid::Uuid::from_slice(id).map(|id| id.to_string()).ok())?
}

/// Compact encodings of the Kafka protocol.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0usize;
        for shift in (0..32).step_by(7) {
            let byte = self.take(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Null counts as empty.
    fn array(&mut self) -> Option<usize> {
        Some(self.varint()?.saturating_sub(1))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.array()?;
        self.take(length)
    }

    fn tags(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = self.varint()?;
            self.take(length)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(topic: &str, id: [u8; 16]) -> Vec<u8> {
        let mut bytes = CORRELATION.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 0, 0]);
        bytes.extend([2, 0, 0, 0, 1, 4, b'a', b'b', b'c', 0, 0, 0x23, 0x84, 0, 0]);
        bytes.extend([3, b'i', b'd', 0, 0, 0, 1]);
        bytes.extend([2, 0, 0]);
        unsigned_varint(&mut bytes, topic.len() + 1);
        bytes.extend(topic.as_bytes());
        bytes.extend(id);
        bytes
    }

    #[test]
    fn ids_are_found_and_damage_is_not_believed() {
        let whole = answer("t", [7; 16]);
        assert_eq!(parse(&whole, "t").as_deref(), Some("07070707-0707-0707-0707-070707070707"));
        assert_eq!(parse(&whole, "u"), None);
        assert_eq!(parse(&answer("t", [0; 16]), "t"), None);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length], "t"), None);
        }
        let long = "x".repeat(200);
        assert!(parse(&answer(&long, [1; 16]), &long).is_some());
    }
}
