//! A client that keeps its connection: as much of HTTP/1.1 as a shop's answers need, since what the
//! client costs is taken from the shops on the same machine.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str;
use std::time::Duration;

/// Longer than the shops ever wait: their answer is an error by then.
const LONGEST: Duration = Duration::from_secs(30);

/// What is asked of a shop.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Past the caches.
    pub(crate) uncached: bool,
    /// JSON, or nothing.
    pub(crate) body: &'a str,
}

impl<'a> Request<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            uncached: false,
            body: "",
        }
    }
}

pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    /// What a shop says is wrong, or the status at least.
    pub(crate) fn reason(&self) -> String {
        format!(
            "{} {}",
            self.status,
            String::from_utf8_lossy(self.body).trim_end()
        )
    }
}

pub(crate) struct Connection {
    address: SocketAddr,
    /// None after an error: what comes next on the connection is not the answer that is waited for.
    stream: Option<TcpStream>,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
            sent: Vec::new(),
            received: Vec::new(),
        }
    }

    pub(crate) fn ask(&mut self, request: &Request<'_>) -> io::Result<Answer<'_>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.address)?,
        };
        self.write(request)?;
        stream.write_all(&self.sent)?;
        let (status, body) = receive(&mut stream, &mut self.received)?;
        self.stream = Some(stream);
        Ok(Answer {
            status,
            body: &self.received[body..],
        })
    }

    fn write(&mut self, request: &Request<'_>) -> io::Result<()> {
        let Request { method, path, .. } = request;
        self.sent.clear();
        write!(
            self.sent,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n",
            self.address
        )?;
        if request.uncached {
            self.sent.extend(b"cache-control: no-cache\r\n");
        }
        if !request.body.is_empty() {
            let length = request.body.len();
            write!(
                self.sent,
                "content-type: application/json\r\ncontent-length: {length}\r\n"
            )?;
        }
        write!(self.sent, "\r\n{}", request.body)
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, LONGEST)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LONGEST))?;
    Ok(stream)
}

/// Reads one answer, and tells its status and where in `received` its body begins.
fn receive(stream: &mut impl Read, received: &mut Vec<u8>) -> io::Result<(u16, usize)> {
    let mut filled = 0;
    let mut head = None;
    received.resize(received.capacity().max(4_096), 0);
    loop {
        if filled == received.len() {
            received.resize(2 * filled, 0);
        }
        match stream.read(&mut received[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
        if head.is_none() {
            head = parse(&received[..filled])?;
        }
        if let Some(Head { status, body, end }) = head
            && filled >= end
        {
            received.truncate(end);
            return Ok((status, body));
        }
    }
}

#[derive(Clone, Copy)]
struct Head {
    status: u16,
    body: usize,
    end: usize,
}

/// None if there is more to come.
fn parse(received: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body) = answer.parse(received).map_err(invalid)? else {
        return Ok(None);
    };
    let length = answer
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .ok_or_else(|| invalid("the answer has no content-length"))?;
    let length = str::from_utf8(length.value).map_err(invalid)?;
    let length: usize = length.parse().map_err(invalid)?;
    Ok(Some(Head {
        status: answer.code.unwrap_or_default(),
        body,
        end: body + length,
    }))
}

fn invalid(error: impl Into<crate::AnyError>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at each read.
    struct Drip(&'static [u8]);

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let least = self.0.len().min(1);
            (&self.0[..least]).read_exact(&mut buffer[..least])?;
            self.0 = &self.0[least..];
            Ok(least)
        }
    }

    #[test]
    fn an_answer_may_come_in_pieces() {
        let mut answer = Drip(b"HTTP/1.1 409 Conflict\r\nContent-Length: 3\r\n\r\nno!");
        let mut received = Vec::new();
        let (status, body) = receive(&mut answer, &mut received).unwrap();
        assert_eq!((status, &received[body..]), (409, &b"no!"[..]));
    }

    #[test]
    fn an_answer_that_ends_early_is_an_error() {
        let mut answer = Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno");
        let error = receive(&mut answer, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
