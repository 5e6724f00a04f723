//! The smallest app behind the gateway: it holds no secret and checks no signature, it only takes what it is handed.
//!
//! `cargo run --example sample_app [ADDRESS]`, by default 127.0.0.1:3000, or a free port where that one is taken. One line
//! on standard output per event. Standard library only, but for the digest that shows that the bytes are the sender's.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use sha2::{Digest, Sha256};

/// The longest body it takes; the gateway's own default.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// The longest head it reads.
const HEAD_BYTES_MAX: u64 = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let wanted = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = listen(wanted.parse()?)?;
    say(&format!("sample app on http://{}", listener.local_addr()?))?;
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = serve(&stream) {
                // Nobody is left to answer; the gateway tries again.
                drop(say(&format!("a connection broke: {error}")));
            }
        });
    }
    Ok(())
}

fn listen(wanted: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(wanted) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => TcpListener::bind((wanted.ip(), 0)),
        other => other,
    }
}

/// Takes one event after the other until the gateway closes the connection.
fn serve(mut stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        // A real app does its work here, and keeps `Hooklatch-Key` with the result: the same key means the same event.
        say(&request.describe())?;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
    Ok(())
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let named = |(candidate, _): &&(String, String)| candidate.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .find(named)
            .map_or("-", |(_, value)| value.as_str())
    }

    fn describe(&self) -> String {
        let signature = self
            .headers
            .iter()
            .find(|(name, _)| name.to_ascii_lowercase().ends_with("-signature"))
            .map_or_else(
                || "no signature".to_owned(),
                |(name, value)| format!("{name}: {value}"),
            );
        format!(
            "{} {}  event {}  type {}  attempt {}  verified {}  {} bytes  sha256 {}  {signature}",
            self.method,
            self.path,
            self.header("Hooklatch-Event-Id"),
            self.header("Hooklatch-Event-Type"),
            self.header("Hooklatch-Attempt"),
            self.header("Hooklatch-Verified"),
            self.body.len(),
            hex::encode(Sha256::digest(&self.body)),
        )
    }
}

/// The next request; `None` when the connection ends between two.
fn read_request(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut head = reader.by_ref().take(HEAD_BYTES_MAX);
    let mut first = String::new();
    if head.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut words = first.split_whitespace().map(str::to_owned);
    let mut request = Request {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) => request.headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = request.header("Content-Length").parse().unwrap_or(0);
    if length > BODY_BYTES_MAX {
        return Err(io::Error::other("the body is over 1 MiB"));
    }
    reader.by_ref().take(length).read_to_end(&mut request.body)?;
    Ok(Some(request))
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
