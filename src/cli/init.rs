//! `hooklatch init`: a small configuration that `check` accepts as soon as the secrets are there.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::config_lines::{Lines, Place, quoted};
use super::secret_args::find;
use super::{EXIT_CONFIG, Global, err, out};
use crate::config::{Env, Severity, inspect};
use crate::event::Timestamp;
use crate::provider::preset::Preset;

/// Random bytes in the path of a sender that signs nothing.
const PATH_SECRET_BYTES: usize = 24;

/// The arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A provider (see: hooklatch providers); may be given several times
    #[arg(long, required = true, value_name = "NAME")]
    pub provider: Vec<String>,
    /// Where the app takes the events
    #[arg(long, value_name = "URL")]
    pub upstream: String,
    /// Where the provider sends them [default: /hooks/<provider>]
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// The URL that the provider is given, for those that sign it (Twilio, Square, ...)
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// The folder of the store
    #[arg(long, value_name = "FOLDER", default_value = "./hooklatch-data")]
    pub store: String,
    /// Where to write the configuration [default: the file of --config or $HOOKLATCH_CONFIG, else hooklatch.toml]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

/// Writes the file and says what comes next; 2 when the arguments would not make a configuration.
pub fn run(args: &Args, global: &Global) -> ExitCode {
    let target = target(args, global);
    let mut names = args.provider.clone();
    names.dedup();
    if names.len() > 1 && (args.path.is_some() || args.public_url.is_some()) {
        err("--path and --public-url go with one --provider only: each provider needs its own");
        return ExitCode::from(EXIT_CONFIG);
    }
    let mut routes = Vec::new();
    for name in &names {
        let route = find(name)
            .map_err(|error| error.to_string())
            .and_then(|preset| Ok((preset, name, path(args, preset, name)?)));
        match route {
            Ok(route) => routes.push(route),
            Err(error) => {
                err(&format!("error: {error}"));
                return ExitCode::from(EXIT_CONFIG);
            }
        }
    }
    let providers: Vec<Lines<'_>> = routes
        .iter()
        .map(|(preset, name, path)| Lines {
            preset,
            name,
            path,
            upstream: &args.upstream,
            public_url: args.public_url.as_deref(),
        })
        .collect();
    let text = text(&providers, args);
    // The written file must be one that `check` accepts, so mistakes in the arguments are found by the same reader.
    let (config, problems) = inspect(&target.display().to_string(), &text, &SecretsPresent(&providers));
    if config.is_none() {
        let errors = problems
            .list()
            .iter()
            .filter(|problem| problem.severity == Severity::Error);
        for problem in errors {
            err(&format!("error: {}", problem.text));
            if let Some(help) = &problem.help {
                err(&format!("  help: {help}"));
            }
        }
        return ExitCode::from(EXIT_CONFIG);
    }
    if let Err(error) = write(&target, &text, args.force) {
        let help = if error.kind() == io::ErrorKind::AlreadyExists {
            "; use --force to replace it, or --out for another file"
        } else {
            ""
        };
        err(&format!(
            "error: cannot write {}: {error}{help}",
            target.display()
        ));
        return ExitCode::FAILURE;
    }
    let plural = if providers.len() == 1 { "" } else { "s" };
    out(&format!(
        "wrote {} ({} route{plural})",
        target.display(),
        providers.len()
    ));
    // The file is there by now, so this is what the other verbs find by themselves.
    let config = match (Global { config: None }).config_path() == target {
        true => String::new(),
        false => format!(" --config {}", target.display()),
    };
    for lines in &providers {
        let title = &lines.preset.title;
        match (lines.needs_url(), &args.public_url) {
            (true, None) => out(&format!(
                "{title} signs the URL too: put the one that is entered there into public_url of {}, or use --public-url",
                target.display()
            )),
            (false, Some(_)) => out(&format!("{title} does not sign the URL: public_url was left out")),
            _ => {}
        }
    }
    out("next:");
    for needed in providers.iter().flat_map(Lines::needed) {
        out(&match needed.place {
            Place::Variable(name) => format!("  export {name}=...   # {}", needed.what),
            Place::File(path) => {
                format!(
                    "  openssl rand -hex 32 | tr -d '\\n' > {path}   # {}",
                    needed.what
                )
            }
        });
    }
    out(&format!("  hooklatch check{config}"));
    out(&format!("  hooklatch run{config}"));
    ExitCode::SUCCESS
}

/// The file that is written: never another one than the person named, by whichever option.
fn target(args: &Args, global: &Global) -> PathBuf {
    let named = args.out.clone().or_else(|| global.named());
    named.unwrap_or_else(|| PathBuf::from("hooklatch.toml"))
}

/// Where the events come in; of a sender that signs nothing, a path that nobody guesses.
fn path(args: &Args, preset: &Preset, name: &str) -> Result<String, String> {
    if let Some(path) = &args.path {
        return Ok(path.clone());
    }
    if !preset.schemes.is_empty() {
        return Ok(format!("/hooks/{name}"));
    }
    let mut secret = [0; PATH_SECRET_BYTES];
    getrandom::fill(&mut secret)
        .map_err(|error| format!("no random bytes for the path: {error}; give one with --path"))?;
    Ok(format!("/hooks/{name}-{}", hex::encode(secret)))
}

fn text(providers: &[Lines<'_>], args: &Args) -> String {
    let mut text = String::from(
        "# Checked by: hooklatch check\n\nlisten = \"0.0.0.0:8080\"\n\n# Events are kept here until the app has taken \
         them: a folder on a lasting volume.\n[store]\n",
    );
    text.push_str(&format!("path = {}\n", quoted(&args.store)));
    let secrets: String = providers.iter().map(Lines::secrets).collect();
    if !secrets.is_empty() {
        text.push_str(&format!(
            "\n# Where each secret comes from: a variable, or the file that <variable>_FILE names.\n[secrets]\n{secrets}"
        ));
    }
    for provider in providers {
        text.push_str(&format!("\n{}\n", provider.route()));
    }
    text
}

fn write(path: &Path, text: &str, force: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(path)?.write_all(text.as_bytes())
}

/// Answers for every variable and file with a secret that fits, since they are put there later.
struct SecretsPresent<'a>(&'a [Lines<'a>]);

impl SecretsPresent<'_> {
    /// A secret of the form that the provider's first scheme wants, as its test vectors have it.
    fn example(&self, is_it: impl Fn(&Place) -> bool) -> Option<Vec<u8>> {
        let asks = |lines: &&Lines<'_>| lines.needed().iter().any(|needed| is_it(&needed.place));
        let preset = self.0.iter().find(asks)?.preset;
        let first = preset.schemes.first()?;
        let mut vectors = preset.vectors.iter();
        let found =
            vectors.find(|vector| vector.scheme.as_deref().is_none_or(|name| *name == *first.name))?;
        Some(found.secret.clone().into_bytes())
    }
}

impl Env for SecretsPresent<'_> {
    fn var(&self, name: &str) -> Option<Vec<u8>> {
        if name.ends_with("_FILE") {
            return None;
        }
        let example = self.example(|place| matches!(place, Place::Variable(known) if known == name));
        Some(example.unwrap_or_else(|| b"any-text-of-the-operator".to_vec()))
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.example(|place| matches!(place, Place::File(known) if Path::new(known) == path))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}
