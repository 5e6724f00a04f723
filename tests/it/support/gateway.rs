//! The real binary as a child process.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{PATIENCE, wait_for};

/// A configuration with one Quantiv route, secret `secret`, kept in `store` and handed to `app`.
pub(crate) fn quantiv_config(store: &Path, app: SocketAddr) -> String {
    format!(
        r#"
listen = "127.0.0.1:0"
drain_delay = "0s"

[store]
path = {store:?}
allow_ephemeral = true

[admin]
listen = "127.0.0.1:0"

[secrets]
quantiv = {{ value = "secret" }}

[[route]]
path = "/hooks/quantiv"
provider = "quantiv"
secrets = ["quantiv"]
upstream = {{ url = "http://{app}/hooks/quantiv" }}
"#
    )
}

/// How to start the binary.
#[derive(Debug, Clone, Default)]
pub(crate) struct Launch {
    config: String,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// The command that starts it, with the binary and its arguments behind.
    inside: Vec<OsString>,
}

/// A process that ended instead of becoming ready.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How; `None`: it was still not ready after [`PATIENCE`] and was killed.
    pub(crate) status: Option<ExitStatus>,
    /// Its standard error.
    pub(crate) log: String,
}

impl Launch {
    /// `hooklatch run` with this configuration; `{dir}` in it becomes the folder made for this gateway.
    pub(crate) fn new(config: &str) -> Self {
        Self {
            config: config.to_owned(),
            ..Self::default()
        }
    }

    /// One more argument of `run`.
    pub(crate) fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more environment variable.
    pub(crate) fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Started by this command, which must replace itself with what stands behind it.
    pub(crate) fn inside<S: Into<OsString>>(mut self, command: impl IntoIterator<Item = S>) -> Self {
        self.inside = command.into_iter().map(Into::into).collect();
        self
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(self) -> Gateway {
        match self.try_start() {
            Ok(gateway) => gateway,
            Err(ended) => panic!("the gateway did not start: {:?}\n{}", ended.status, ended.log),
        }
    }

    /// Starts it and waits until it is ready, or has ended.
    pub(crate) fn try_start(self) -> Result<Gateway, Ended> {
        self.begin().ready()
    }

    /// Starts it and waits for nothing: it has no addresses until [`Gateway::ready`].
    pub(crate) fn begin(self) -> Gateway {
        let dir = tempfile::tempdir().unwrap();
        let config = self.config.replace("{dir}", dir.path().to_str().unwrap());
        std::fs::write(dir.path().join("hooklatch.toml"), config).unwrap();
        spawn(self, Arc::new(dir))
    }
}

/// A running gateway; killed when dropped.
#[derive(Debug)]
pub(crate) struct Gateway {
    launch: Launch,
    child: Child,
    ended: Option<ExitStatus>,
    listen: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    dir: Arc<TempDir>,
}

impl Gateway {
    /// Starts one with this configuration and waits until it is ready.
    pub(crate) fn start(config: &str) -> Self {
        Launch::new(config).start()
    }

    /// Where senders reach it.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen.expect("it is ready and says where it listens")
    }

    /// Where its admin API listens.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.expect("the configuration has an admin listener")
    }

    /// The folder made for it: holds `hooklatch.toml` and `log`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it wrote to standard error, over all restarts.
    pub(crate) fn log(&self) -> String {
        read_log(self.dir())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready, or has ended.
    pub(crate) fn ready(mut self) -> Result<Self, Ended> {
        let text = wait_for(PATIENCE, || match self.ready_text() {
            Some(text) => Some(Some(text)),
            None => self.has_ended().then_some(None),
        });
        let Some(Some(text)) = text else {
            let status = self.ended;
            self.kill9();
            return Err(Ended {
                status,
                log: self.log(),
            });
        };
        let addresses: serde_json::Value = serde_json::from_str(&text).unwrap();
        let address = |name: &str| addresses[name].as_str().and_then(|text| text.parse().ok());
        self.listen = address("listen");
        self.admin = address("admin");
        Ok(self)
    }

    /// Whether it has said that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready_text().is_some()
    }

    /// Whether the process is gone.
    pub(crate) fn has_ended(&mut self) -> bool {
        if let Some(status) = self.child.try_wait().unwrap() {
            self.ended.get_or_insert(status);
        }
        self.ended.is_some()
    }

    /// The exit code, once it has ended by itself.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.ended?.code()
    }

    fn ready_text(&self) -> Option<String> {
        std::fs::read_to_string(self.dir().join(READY_FILE)).ok()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it on the spot, as a power cut would: when this returns, none of its instructions runs any more. A thread
    /// that waits for the disk inside a system call does not come back from it. It may have come to its end meanwhile.
    pub(crate) fn freeze(&mut self) {
        if self.has_ended() {
            return;
        }
        self.signal(Signal::STOP);
        let frozen = wait_for(PATIENCE, || {
            if self.has_ended() {
                return Some(());
            }
            let states = thread_states(self.pid());
            // The first thread that stops has marked all others. Those in `D` (a wait that nothing interrupts) stop on
            // their way out of the kernel.
            let stopped = states.contains(&'T') && states.iter().all(|state| matches!(state, 'T' | 'D'));
            stopped.then_some(())
        });
        assert!(
            frozen.is_some(),
            "the gateway cannot be frozen: {:?}",
            thread_states(self.pid())
        );
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill9(&mut self) -> ExitStatus {
        // It may have ended by itself; `wait` tells.
        drop(self.child.kill());
        let status = self.child.wait().unwrap();
        *self.ended.get_or_insert(status)
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn term(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let ended = wait_for(PATIENCE * 2, || self.child.try_wait().unwrap());
        let status = ended.unwrap_or_else(|| panic!("the gateway does not end\n{}", self.log()));
        *self.ended.get_or_insert(status)
    }

    /// Starts it again with the same configuration; free ports may differ.
    pub(crate) fn restart(&mut self) {
        if let Err(ended) = self.try_restart() {
            panic!("the gateway did not restart: {:?}\n{}", ended.status, ended.log);
        }
    }

    /// Starts it again and sends it `signal` after `wait`, ready or not; how it ended.
    pub(crate) fn signal_at_restart(&mut self, signal: Signal, wait: Duration) -> ExitStatus {
        self.kill9();
        *self = spawn(self.launch.clone(), self.dir.clone());
        std::thread::sleep(wait);
        self.signal(signal);
        self.wait()
    }

    /// Like [`Gateway::restart`], with the failure as a value.
    pub(crate) fn try_restart(&mut self) -> Result<(), Ended> {
        self.kill9();
        *self = spawn(self.launch.clone(), self.dir.clone()).ready()?;
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(4000);
            eprintln!("--- log of the gateway ---\n{}", log.get(tail..).unwrap_or(&log));
        }
    }
}

/// The binary under test: the one Cargo built, or `HOOKLATCH_BIN`.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("HOOKLATCH_BIN").map_or_else(|| env!("CARGO_BIN_EXE_hooklatch").into(), PathBuf::from)
}

/// In the gateway's folder: its addresses, once it is ready.
const READY_FILE: &str = "ready.json";

fn spawn(launch: Launch, dir: Arc<TempDir>) -> Gateway {
    let ready = dir.path().join(READY_FILE);
    drop(std::fs::remove_file(&ready));
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.path().join("log"))
        .unwrap();
    let mut words = launch.inside.clone();
    words.push(binary().into());
    let child = Command::new(&words[0])
        .args(&words[1..])
        .arg("run")
        .arg("-c")
        .arg(dir.path().join("hooklatch.toml"))
        .args(&launch.arguments)
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .env("HOOKLATCH_READY_FILE", &ready)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Gateway {
        launch,
        child,
        ended: None,
        listen: None,
        admin: None,
        dir,
    }
}

/// The states of the threads of a process, as letters of proc(5).
fn thread_states(pid: u32) -> Vec<char> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok())
        // The name before it is in parentheses and may hold any character.
        .filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next())
        .collect()
}

fn read_log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}
