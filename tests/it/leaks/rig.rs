//! A gateway full of canaries, and everything it ever said.

use std::path::PathBuf;
use std::process::Command;

use super::canary::Canary;
use super::places::{CANARIES, Kind, NOWHERE, Places};
use super::setting::{app, config, text_of};
use crate::support::{
    App, Connection, Ended, Gateway, Launch, PATIENCE, Response, binary, hmac_hex, wait_for,
};

pub(super) struct Rig {
    canaries: Vec<(Canary, Places)>,
    artefacts: Vec<(Kind, String, Vec<u8>)>,
    pub(super) app: App,
    pub(super) gateway: Gateway,
    format: &'static str,
    /// So that each tour has ids of its own.
    pub(super) tours: usize,
}

impl Rig {
    pub(super) fn start(format: &'static str) -> Self {
        let mut canaries: Vec<_> = CANARIES
            .iter()
            .map(|(name, places)| (Canary::new(name), *places))
            .collect();
        let handoff: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(32).collect();
        let hex_key: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(32).collect();
        let handoff_text = base64_of(&handoff);
        canaries.push((
            Canary::of("hand-off secret as written", handoff_text.into_bytes()),
            NOWHERE,
        ));
        canaries.push((Canary::of("hand-off key", handoff), NOWHERE));
        canaries.push((
            Canary::of("hex secret as written", hex::encode(&hex_key).into_bytes()),
            NOWHERE,
        ));
        canaries.push((Canary::of("hex key", hex_key), NOWHERE));
        let find = |name: &str| text_of(&canaries, name);
        let app = app(
            find("relayed answer"),
            find("words of a refusing app"),
            find("header of a refusing app"),
        );
        let text = config(&canaries, &app, format);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, find("secret by file")).unwrap();
        let text = text.replace("{secret_file}", file.to_str().unwrap());
        let gateway = Launch::new(&text)
            .env("LEAK_SECRET", find("secret by variable"))
            .env("LEAK_TOKEN", find("admin token"))
            .start();
        std::fs::copy(&file, gateway.dir().join("secret")).unwrap();
        let text = text.replace(
            file.to_str().unwrap(),
            gateway.dir().join("secret").to_str().unwrap(),
        );
        let mut rig = Self {
            canaries,
            artefacts: Vec::new(),
            app,
            gateway,
            format,
            tours: 0,
        };
        rig.write_config(&text);
        rig
    }

    pub(super) fn canaries(&self) -> impl Iterator<Item = (&Canary, &Places)> {
        self.canaries.iter().map(|(canary, places)| (canary, places))
    }

    pub(super) fn artefacts(&self) -> impl Iterator<Item = (Kind, &str, &[u8])> {
        self.artefacts
            .iter()
            .map(|(kind, name, content)| (*kind, name.as_str(), content.as_slice()))
    }

    pub(super) fn text(&self, name: &str) -> String {
        text_of(&self.canaries, name)
    }

    pub(super) fn key(&self, name: &str) -> Vec<u8> {
        let (canary, _) = self
            .canaries
            .iter()
            .find(|(canary, _)| canary.name() == name)
            .unwrap();
        canary.bytes().to_vec()
    }

    pub(super) fn keep(&mut self, kind: Kind, name: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.artefacts.push((kind, name.into(), content.into()));
    }

    /// The configuration as it stands, and one in its place.
    pub(super) fn config(&self) -> String {
        std::fs::read_to_string(self.gateway.dir().join("hooklatch.toml")).unwrap()
    }

    pub(super) fn write_config(&mut self, text: &str) {
        let text = text.replace("{dir}", self.gateway.dir().to_str().unwrap());
        std::fs::write(self.gateway.dir().join("hooklatch.toml"), text).unwrap();
    }

    /// Posts a body signed with `key` and keeps the answer.
    pub(super) fn post(&mut self, target: &str, key: &[u8], headers: &[(&str, &str)], body: &[u8]) -> u16 {
        let signature = hmac_hex(key, body);
        let mut all = vec![("X-Quantiv-Signature", signature.as_str())];
        all.extend_from_slice(headers);
        let answer = crate::support::post(self.gateway.listen(), target, &all, body);
        self.keep_answer(Kind::Answer, target, &answer);
        answer.status
    }

    /// Sends bytes as they stand and keeps what comes back.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Vec<u8> {
        let answer = crate::support::send_raw(self.gateway.listen(), bytes);
        self.keep(Kind::Answer, "raw", answer.clone());
        answer
    }

    pub(super) fn admin(&mut self, method: &str, path: &str, token: Option<&str>, body: &str) -> Response {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer
            .iter()
            .map(|value| ("Authorization", value.as_str()))
            .collect();
        let mut connection = Connection::open(self.gateway.admin()).unwrap();
        let head = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect::<String>();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write(request.as_bytes()).unwrap();
        let answer = connection.read_response().unwrap();
        let kind = if path == "/metrics" {
            Kind::Metrics
        } else {
            Kind::Admin
        };
        self.keep_answer(kind, path, &answer);
        answer
    }

    fn keep_answer(&mut self, kind: Kind, name: &str, answer: &Response) {
        let mut said = format!("{}\n{:?}\n", answer.status, answer.headers).into_bytes();
        said.extend_from_slice(&answer.body);
        self.keep(kind, name, said);
    }

    /// Runs a verb with every secret in its environment and keeps what it says; its standard output.
    pub(super) fn cli(&mut self, kind: Kind, arguments: &[&str]) -> String {
        let output = Command::new(binary())
            .args(arguments)
            .env("LEAK_SECRET", self.text("secret by variable"))
            .env("LEAK_TOKEN", self.text("admin token"))
            .env("LEAK_FORGER", self.text("secret of a forger"))
            .env("HOOKLATCH_CONFIG", self.gateway.dir().join("hooklatch.toml"))
            .current_dir(self.gateway.dir())
            .output()
            .unwrap();
        self.keep(
            kind,
            arguments.join(" "),
            [output.stdout.as_slice(), &output.stderr].concat(),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A start that must fail, with what it says.
    pub(super) fn failing_start(&mut self, what: &str, text: &str) {
        let Ended { status, log } = Launch::new(text)
            .env("LEAK_SECRET", self.text("secret by variable"))
            .env("LEAK_TOKEN", self.text("admin token"))
            .try_start()
            .unwrap_err();
        assert!(
            status.is_some_and(|status| !status.success()),
            "{what}: {status:?}\n{log}"
        );
        self.keep(Kind::Log, what, log);
    }

    pub(super) fn wait_for_metric(&mut self, name: &str, wanted: f64) {
        let token = self.text("admin token");
        let reached = wait_for(PATIENCE, || (self.metric(name, &token) == wanted).then_some(()));
        assert!(reached.is_some(), "{name} is {}", self.metric(name, &token));
    }

    fn metric(&mut self, name: &str, token: &str) -> f64 {
        let text = self.admin("GET", "/metrics", Some(token), "").text();
        self.artefacts.pop();
        let line = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' '])
                .then(|| line.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        text.lines().filter_map(line).sum()
    }

    pub(super) fn store(&self) -> PathBuf {
        self.gateway.dir().join("store")
    }

    /// Looks at the process, ends it, and gathers what it left.
    pub(super) fn stop(&mut self) {
        let process = PathBuf::from(format!("/proc/{}", self.gateway.pid()));
        self.keep(
            Kind::Process,
            "cmdline",
            std::fs::read(process.join("cmdline")).unwrap(),
        );
        for thread in std::fs::read_dir(process.join("task")).unwrap().flatten() {
            if let Ok(name) = std::fs::read(thread.path().join("comm")) {
                self.keep(Kind::Process, "a thread's name", name);
            }
        }
        self.keep_store("the running store");
        assert_eq!(self.gateway.term().code(), Some(0), "{}", self.gateway.log());
        self.keep_store("the store");
        let log = self.gateway.log();
        // At its most verbose, and in the form asked for.
        assert_eq!(log.trim_start().starts_with('{'), self.format == "json", "{log}");
        self.keep(Kind::Log, "the log", log);
        for request in self.app.requests() {
            let head = format!("{} {}\n{:?}\n", request.method, request.target, request.headers);
            self.keep(Kind::App, "a request", [head.as_bytes(), &request.body].concat());
        }
    }

    fn keep_store(&mut self, name: &str) {
        for file in std::fs::read_dir(self.store()).unwrap().flatten() {
            let content = std::fs::read(file.path()).unwrap();
            self.keep(
                Kind::Store,
                format!("{name}: {}", file.file_name().display()),
                content,
            );
        }
    }
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
