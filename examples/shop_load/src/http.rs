//! An HTTP/1.1 client with a persistent connection. It supports only what the responses of a shop need, because its
//! processor time is taken from the shops on the same machine.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str;
use std::time::Duration;

/// The timeout of a request. It is longer than all timeouts in the shops, which respond with an error before it passes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A request to a shop.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Whether the request bypasses the caches.
    pub(crate) uncached: bool,
    /// The body as JSON, or an empty string.
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

/// A response.
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Response<'_> {
    /// Returns the status and the body, for error messages.
    pub(crate) fn reason(&self) -> String {
        format!(
            "{} {}",
            self.status,
            String::from_utf8_lossy(self.body).trim_end()
        )
    }
}

/// A connection to a shop, which is opened for the first request and again after an error.
pub(crate) struct Connection {
    address: SocketAddr,
    /// The open connection. `None` after an error, because the next data on it would belong to the failed request.
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

    /// Sends a request and waits for its response.
    pub(crate) fn send(&mut self, request: &Request<'_>) -> io::Result<Response<'_>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.address)?,
        };
        self.write(request)?;
        stream.write_all(&self.sent)?;
        let (status, body) = receive(&mut stream, &mut self.received)?;
        self.stream = Some(stream);
        Ok(Response {
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
    let stream = TcpStream::connect_timeout(&address, REQUEST_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    Ok(stream)
}

/// Reads one response. Returns its status, and the position of its body in `received`.
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

/// The status of a response, and the positions of the start and end of its body.
#[derive(Clone, Copy)]
struct Head {
    status: u16,
    body: usize,
    end: usize,
}

/// Parses the head of a response. Returns `None` if it is not complete.
fn parse(received: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body) = response.parse(received).map_err(invalid)? else {
        return Ok(None);
    };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .ok_or_else(|| invalid("the response has no content-length"))?;
    let length = str::from_utf8(length.value).map_err(invalid)?;
    let length: usize = length.parse().map_err(invalid)?;
    Ok(Some(Head {
        status: response.code.unwrap_or_default(),
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

    /// A reader that returns one byte per call.
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
    fn response_in_pieces_is_assembled() {
        let mut response = Drip(b"HTTP/1.1 409 Conflict\r\nContent-Length: 3\r\n\r\nno!");
        let mut received = Vec::new();
        let (status, body) = receive(&mut response, &mut received).unwrap();
        assert_eq!((status, &received[body..]), (409, &b"no!"[..]));
    }

    #[test]
    fn response_that_ends_early_is_an_error() {
        let mut response = Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno");
        let error = receive(&mut response, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
