//! The configuration as its user meets it: texts in, settings or rendered problems out.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use hooklatch::config::{self, Env, Severity};
use hooklatch::event::Timestamp;

/// A secret that must never be seen again.
const CANARY: &str = "canary-5f1d2c3b4a59687766554433";

/// Variables and files of one test; the time is 2026-11-21T00:00:00Z.
#[derive(Default)]
struct TestEnv {
    vars: HashMap<String, Vec<u8>>,
    files: HashMap<String, Vec<u8>>,
}

impl TestEnv {
    fn var(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.vars.insert(name.to_owned(), value.into());
        self
    }

    fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.to_owned(), content.into());
        self
    }
}

impl Env for TestEnv {
    fn var(&self, name: &str) -> Option<Vec<u8>> {
        self.vars.get(name).cloned()
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files
            .get(&path.display().to_string())
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_795_219_200_000)
    }
}

fn env() -> TestEnv {
    TestEnv::default().var("S", "a-secret-long-enough")
}

#[test]
fn scratch() {
    for text in [
        "listen = \"0.0.0.0:8080\"\n\n[store]\npath = \"/var/lib/hooklatch\"\n\n[secrets]\nq = { env = \"S\" }\n[[route]]\npath = \"/hooks/quantiv\"\nprovider = \"quantive\"\nsecrets = [\"q\"]\nupstrem = { url = \"http://127.0.0.1:3000\" }\n",
        "listen = 8080\nadmin.listen = \"0.0.0.0:9090\"\n[secrets]\nq = { value = \"hunter2hunter2hunter2\", utnil = 2020-01-01 }\n[[route]]\npath = \"/a\"\nprovider=\"iverton\"\nsecrets=[\"q\"]\ndedup = \"1h\"\nevent_id = { header = \"X-Webhook-Id\" }\nupstream = { url = \"http://127.0.0.1:8080/x\" }\n",
        "[secrets\nq = { value = \"x }\n[[route]\npath = nothing\n",
        "",
    ] {
        let (_, problems) = config::inspect("hooklatch.toml", text, &env());
        println!("{problems}\n=======");
    }
}
