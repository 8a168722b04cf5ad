//! An HTTP client with a persistent connection. It supports only what the responses of this server need.

use profiles::AnyError;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A blocking client for one thread, so that clients do not compete with the measured service for the runtime.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Client {
    /// Opens `count` connections.
    pub(crate) fn connect(address: SocketAddr, count: usize) -> Result<Vec<Self>, AnyError> {
        let client = |_| {
            Ok(Self {
                stream: BufReader::new(TcpStream::connect(address)?),
                line: String::new(),
                body: Vec::new(),
            })
        };
        (0..count).map(client).collect()
    }

    /// Sends a request and reads the response. Returns an error if the status is not 200.
    pub(crate) fn get(&mut self, path: &str) -> Result<(), AnyError> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;

        let ok = self.next_line()?.starts_with("HTTP/1.1 200 ");
        let mut length = 0;
        loop {
            match self.next_line()?.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse()?;
                }
                Some(_) => {}
                None => break,
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body)?;
        if ok {
            Ok(())
        } else {
            let reason = String::from_utf8_lossy(&self.body);
            Err(format!("the request for {path} failed: {}", reason.trim_end()).into())
        }
    }

    fn next_line(&mut self) -> Result<&str, AnyError> {
        self.line.clear();
        match self.stream.read_line(&mut self.line)? {
            0 => Err("the server has closed the connection".into()),
            _ => Ok(self.line.trim_end()),
        }
    }
}
