//! Requests with a bad signature, kept for `hooklatch verify --quarantined --explain`: on routes that ask for it, within a bound.
//!
//! They are never events. The oldest go first; a flood of forged requests is sampled, not written out.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use governor::DefaultDirectRateLimiter;
use tokio::sync::Semaphore;

use super::head::Head;
use super::settings::Quota;
use crate::event::Timestamp;
use crate::fields::Fields;
use crate::provider::request::query_without;
use crate::provider::scheme::Credentials;

/// Requests that are kept in a second: enough for a sender that is set up wrongly.
const KEPT: Quota = Quota {
    per_second: 5.0,
    burst: 50,
};
/// A file takes whole blocks of the disk, however short it is.
const FILE_BYTES_MIN: u64 = 4096;
/// Files of one route: each new one looks at all of them.
const FILES_MAX: usize = 1000;
/// Requests that wait to be written at once; a disk that is slower loses the next.
const PENDING_MAX: usize = 64;
/// What a file's name ends in.
const SUFFIX: &str = ".http";

/// The requests of one route that were refused.
#[derive(Debug)]
pub(super) struct Quarantine {
    folder: PathBuf,
    bytes_max: u64,
    limiter: DefaultDirectRateLimiter,
    pending: Arc<Semaphore>,
    /// One file is written at a time, and named after the one before it.
    last_name: Mutex<i64>,
}

impl Quarantine {
    /// In `folder`, which is made when the first request is kept.
    pub(super) fn new(folder: PathBuf, bytes_max: u64) -> Self {
        Self {
            folder,
            bytes_max,
            limiter: KEPT.limiter(),
            pending: Arc::new(Semaphore::new(PENDING_MAX)),
            last_name: Mutex::new(0),
        }
    }

    /// Keeps a request without the headers and parameters that hold a credential, soon; nobody waits for it.
    pub(super) fn keep(
        self: &Arc<Self>,
        head: &Head,
        credentials: &Credentials,
        body: Bytes,
        now: Timestamp,
    ) {
        if self.limiter.check().is_err() {
            return;
        }
        let Ok(pending) = self.pending.clone().try_acquire_owned() else {
            return;
        };
        let text = head_text(head, credentials);
        let quarantine = self.clone();
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = quarantine.write(&text, &body, now) {
                tracing::warn!(error = %error, folder = %quarantine.folder.display(), "a refused request could not be kept");
            }
            drop(pending);
        }));
    }

    fn write(&self, head: &[u8], body: &[u8], now: Timestamp) -> io::Result<()> {
        let bytes = taken((head.len() + body.len()) as u64);
        if bytes > self.bytes_max {
            return Ok(());
        }
        let mut last = self.last_name.lock().unwrap_or_else(PoisonError::into_inner);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        self.make_room(bytes)?;
        // Milliseconds since 1970, and one more where two come in one.
        *last = now.0.max(*last + 1);
        let path = self.folder.join(format!("{:015}{SUFFIX}", *last));
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(head)?;
        file.write_all(body)
    }

    /// Removes the oldest until `bytes` fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files = files(&self.folder)?;
        let mut total: u64 = files.iter().map(|(_, bytes)| taken(*bytes)).sum();
        files.reverse();
        while total + bytes > self.bytes_max || files.len() >= FILES_MAX {
            let Some((path, freed)) = files.pop() else { break };
            std::fs::remove_file(path)?;
            total -= taken(freed);
        }
        Ok(())
    }
}

/// What a file of so many bytes takes.
fn taken(bytes: u64) -> u64 {
    bytes.max(FILE_BYTES_MIN)
}

/// The files of a quarantine with their lengths, the oldest first.
fn files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if path.to_string_lossy().ends_with(SUFFIX) {
            found.push((path, entry.metadata()?.len()));
        }
    }
    found.sort();
    Ok(found)
}

/// The request line and the header, as `verify` reads captures.
fn head_text(head: &Head, credentials: &Credentials) -> Vec<u8> {
    let mut text = format!("{} {}", head.method, head.path).into_bytes();
    if let Some(query) = &head.query {
        let names = credentials.parameters.iter();
        let query = names.fold(query.to_string(), |query, name| query_without(&query, name));
        text.push(b'?');
        text.extend_from_slice(query.as_bytes());
    }
    text.extend_from_slice(b" HTTP/1.1\r\n");
    lines(&mut text, &head.fields, &credentials.headers);
    text.extend_from_slice(b"\r\n");
    text
}

fn lines(text: &mut Vec<u8>, fields: &Fields, credentials: &[Box<str>]) {
    for (name, value) in fields.iter() {
        // To some servers X_Token is X-Token.
        let dashed: Vec<u8> = name
            .iter()
            .map(|byte| if *byte == b'_' { b'-' } else { *byte })
            .collect();
        let is = |known: &str| dashed.eq_ignore_ascii_case(known.replace('_', "-").as_bytes());
        // The body is kept as it was read.
        if is("transfer-encoding") || credentials.iter().any(|credential| is(credential)) {
            continue;
        }
        for part in [name, b": ", value, b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_oldest_go_and_the_bound_holds() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(folder.path().join("q"), 10 * FILE_BYTES_MIN);
        for number in 0..30 {
            quarantine
                .write(&[b'h'; 50], &[b'b'; 50], Timestamp(1_000 + number / 2))
                .unwrap();
        }
        let kept = files(&folder.path().join("q")).unwrap();
        assert_eq!(kept.len(), 10);
        let names: Vec<_> = kept
            .iter()
            .map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names.first().unwrap(), "000000000001020.http");
        assert_eq!(names.last().unwrap(), "000000000001029.http");
        quarantine
            .write(&[b'h'; 600], &[b'b'; 60_000], Timestamp(2_000))
            .unwrap();
        assert_eq!(
            files(&folder.path().join("q")).unwrap().len(),
            10,
            "one that never fits"
        );
    }

    #[test]
    fn a_request_is_kept_as_it_came_but_for_its_credentials() {
        let head = sample::head(
            "POST /hooks?a=%20&code=secret",
            "X-Sig: ab\r\nX-Token: secret\r\nx_token: secret\r\nTransfer-Encoding: chunked\r\n",
        );
        let credentials = Credentials {
            headers: vec!["x-token".into()],
            parameters: vec!["code".into()],
        };
        let text = head_text(&head, &credentials);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text,
            "POST /hooks?a=%20 HTTP/1.1\r\nHost: gate\r\nX-Sig: ab\r\n\r\n"
        );
    }
}
