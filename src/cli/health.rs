//! `hooklatch health`: asks a running gateway how it is; made for a container's health check.
//!
//! Plain blocking HTTP, so that the check starts fast and needs no shell and no curl; of the configuration only the listener is read.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{Global, reachable};
use crate::config::health_listener;

/// Where the admin API listens where nothing else is said.
const URL: &str = "http://127.0.0.1:9190";
/// Bytes of an answer that are read; ours are far shorter.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// The arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the admin API or the probe listens [default: as the configuration says, else http://127.0.0.1:9190]
    #[arg(long)]
    pub url: Option<String>,
    /// How long the whole check may take, like 2s or 500ms.
    #[arg(long, default_value = "2s", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// Ask only whether the process runs, not whether it takes events.
    #[arg(long)]
    pub live: bool,
}

/// Why there is no answer to judge.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("url {given:?} is not http://host:port; write it like http://127.0.0.1:9190")]
    Url { given: String },
    #[error(
        "cannot reach {address}: {source}; if it listens elsewhere, say where with --url, or name its configuration with -c"
    )]
    Reach { address: String, source: io::Error },
    #[error("{address} does not answer: {source}")]
    Answer { address: String, source: io::Error },
    #[error("{address} does not speak HTTP")]
    NotHttp { address: String },
}

/// Asks, prints one line, and gives 0 when the answer is 200, else 1.
pub fn run(args: &Args, global: &Global) -> ExitCode {
    let told = match (&args.url, listener(global)) {
        (None, Ok(Some(listener))) => check(&Args {
            url: Some(format!("http://{listener}")),
            ..args.clone()
        }),
        (None, Err(line)) => Err(line),
        _ => check(args),
    };
    let (code, line) = match told {
        Ok(line) => (ExitCode::SUCCESS, line),
        Err(line) => (ExitCode::FAILURE, line),
    };
    // The exit code is the answer; a reader that is gone does not change it.
    drop(writeln!(io::stdout(), "{line}"));
    code
}

/// Where the configuration says that the gateway listens; `None` without a configuration.
///
/// # Errors
/// The line for one that was named and cannot be read.
fn listener(global: &Global) -> Result<Option<SocketAddr>, String> {
    let path = global.config_path();
    let listener = match std::fs::read_to_string(&path) {
        Ok(text) => health_listener(&text),
        Err(error) if global.config.is_some() => {
            return Err(format!("cannot read {}: {error}", path.display()));
        }
        Err(_) => None,
    };
    // Port 0 is any: nobody knows which.
    let listener = listener.filter(|listener| listener.port() != 0);
    Ok(listener.map(reachable))
}

/// The line for good health.
///
/// # Errors
/// The line for any other: the answer was not 200, or there was none in time.
pub fn check(args: &Args) -> Result<String, String> {
    let (path, word) = if args.live {
        ("/livez", "live")
    } else {
        ("/readyz", "ready")
    };
    let url = args.url.as_deref().unwrap_or(URL);
    match ask(url, path, args.timeout) {
        Ok((200, body)) if is_ours(&body, word) => Ok(word.to_owned()),
        Ok((200, _)) => Err(format!(
            "not {word}: the answer of {url} is not from hooklatch; name its admin or probe listener"
        )),
        Ok((status, body)) => Err(format!("not {word}: {status} {body}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the body is that of our own answer; any other server may answer 200 too.
fn is_ours(body: &str, word: &str) -> bool {
    let answer: Option<serde_json::Value> = serde_json::from_str(body).ok();
    answer.is_some_and(|answer| answer.get(word) == Some(&serde_json::Value::Bool(true)))
}

/// The status and the body, on one line, of `GET url + path`.
fn ask(url: &str, path: &str, timeout: Duration) -> Result<(u16, String), CheckError> {
    let deadline = Instant::now() + timeout;
    let address = authority(url).ok_or_else(|| CheckError::Url {
        given: url.to_owned(),
    })?;
    let mut stream = connect(&address, deadline).map_err(|source| CheckError::Reach {
        address: address.clone(),
        source,
    })?;
    let answer = exchange(&mut stream, &address, path, deadline).map_err(|source| CheckError::Answer {
        address: address.clone(),
        source,
    })?;
    read_answer(&answer).ok_or(CheckError::NotHttp { address })
}

/// `host:port` of `http://host[:port][/]`.
fn authority(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://")?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.is_empty() || host.contains(|c: char| c == '/' || c == '@' || c.is_whitespace() || c.is_control())
    {
        return None;
    }
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port {
        host.to_owned()
    } else {
        format!("{host}:80")
    })
}

/// A name may have several addresses (`localhost`): the first that answers.
fn connect(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(stream: &mut TcpStream, host: &str, path: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    while answer.len() < ANSWER_BYTES_MAX {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend(chunk.iter().take(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What was read tells enough when only the close is missing.
            Err(error) if read_answer(&answer).is_none() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(answer)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    Some(deadline.saturating_duration_since(Instant::now()))
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}

fn read_answer(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| head.strip_prefix("HTTP/1.0 "))?;
    let status = status.get(..3)?.parse().ok()?;
    let body = body.chars().filter(|c| !c.is_control()).take(200).collect();
    Some((status, body))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let millis = match text.strip_suffix("ms") {
        Some(number) => number.parse().ok(),
        None => text
            .strip_suffix('s')
            .and_then(|number| number.parse::<u64>().ok())
            .and_then(|seconds| seconds.checked_mul(1000)),
    };
    match millis {
        Some(millis @ 1..=3_600_000) => Ok(Duration::from_millis(millis)),
        _ => Err("write it like 2s or 500ms, at most 3600s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (given, want) in [
            ("http://127.0.0.1:9190", Some("127.0.0.1:9190")),
            ("http://127.0.0.1:9190/", Some("127.0.0.1:9190")),
            ("http://localhost", Some("localhost:80")),
            ("http://[::1]:9190", Some("[::1]:9190")),
            ("http://[::1]", Some("[::1]:80")),
            ("https://127.0.0.1:9190", None),
            ("127.0.0.1:9190", None),
            ("http://", None),
            ("http://a/b", None),
            ("http://a\r\nb:80", None),
            ("http://u@a:80", None),
        ] {
            assert_eq!(authority(given).as_deref(), want, "{given}");
        }
    }

    #[test]
    fn timeouts_have_a_unit() {
        for (given, want) in [
            ("2s", Some(2000)),
            ("500ms", Some(500)),
            ("2", None),
            ("0s", None),
            ("-1s", None),
            ("2m", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(
                parse_timeout(given).ok(),
                want.map(Duration::from_millis),
                "{given}"
            );
        }
    }

    #[test]
    fn only_our_own_answer_counts() {
        for (body, word, want) in [
            (
                r#"{"ready":true,"phase":"running","store":"full"}"#,
                "ready",
                true,
            ),
            (r#"{"live":true}"#, "live", true),
            (r#"{"live":true}"#, "ready", false),
            (r#"{"ready":"true"}"#, "ready", false),
            ("", "ready", false),
            ("ready", "ready", false),
        ] {
            assert_eq!(is_ours(body, word), want, "{body}");
        }
    }

    #[test]
    fn answers_are_judged_by_their_status_line() {
        for (name, given, want) in [
            ("ready", "HTTP/1.1 200 OK\r\n\r\n{}", Some((200, "{}".to_owned()))),
            (
                "not ready",
                "HTTP/1.1 503 S\r\nA: b\r\n\r\nx\ny",
                Some((503, "xy".to_owned())),
            ),
            ("cut short", "HTTP/1.1 200 OK\r\n", None),
            ("not HTTP", "SSH-2.0-x\r\n\r\n", None),
            ("no number", "HTTP/1.1 abc\r\n\r\n", None),
        ] {
            assert_eq!(read_answer(given.as_bytes()), want, "{name}");
        }
    }
}
