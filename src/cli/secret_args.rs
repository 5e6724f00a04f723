//! Where `sign` and `verify` take secrets from. Never the command line itself: it is visible to every process.

use std::fs;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::CliError;
use crate::event::SecretName;
use crate::provider::explain::NamedSecret;
use crate::provider::preset::{self, Preset};
use crate::provider::scheme::Scheme;
use crate::secret::SecretText;

/// Where secrets come from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SecretArgs {
    /// Environment variable that holds a secret; may be repeated
    #[arg(long, value_name = "NAME")]
    pub secret_env: Vec<String>,
    /// File that holds a secret (one final line end is dropped, as in the configuration); may be repeated
    #[arg(long, value_name = "FILE")]
    pub secret_file: Vec<PathBuf>,
    /// Use scheme, secrets and public URL of this route of the configuration
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
}

/// A route's scheme, and every secret of the configuration.
#[derive(Debug, Clone, Default)]
pub struct RouteSecrets {
    /// Whose schemes these are; `None`: those of a `verify` table.
    pub preset: Option<&'static Preset>,
    /// How the route's senders may sign.
    pub schemes: Vec<Scheme>,
    /// The URL that its sender was given.
    pub public_url: Option<String>,
    /// The route's token for handshakes that bring one.
    pub verify_token: Option<SecretText>,
    /// Where its refused requests are kept.
    pub quarantine: Option<PathBuf>,
    /// The route's own with `of_route`, in its order and those that have expired last, then those of the other routes.
    pub secrets: Vec<NamedSecret>,
    /// The route's secrets, each with the scheme that it is bound to.
    pub bound: Vec<(SecretName, Box<str>)>,
}

/// What the verbs ask of the outside: implemented over `config`, and by tests.
pub trait SecretSource {
    /// The value of an environment variable.
    fn env(&self, name: &str) -> Option<Vec<u8>>;

    /// Scheme and secrets of a route.
    ///
    /// # Errors
    /// When the configuration cannot be read or has no such route.
    fn route(&self, route: &str) -> Result<RouteSecrets, CliError>;
}

impl SecretArgs {
    /// The scheme (the named provider's, else the route's) and the secrets, those given by hand first; at least one.
    pub(super) fn resolve(
        &self,
        provider: Option<&str>,
        source: &dyn SecretSource,
    ) -> Result<RouteSecrets, CliError> {
        let given = self.schemes(provider, source)?;
        match given.secrets.is_empty() {
            true => Err(CliError::NoSecret),
            false => Ok(given),
        }
    }

    /// The same, perhaps without a secret.
    pub(super) fn schemes(
        &self,
        provider: Option<&str>,
        source: &dyn SecretSource,
    ) -> Result<RouteSecrets, CliError> {
        let mut secrets = Vec::new();
        for name in &self.secret_env {
            let value = source
                .env(name)
                .ok_or_else(|| CliError::Env { name: name.clone() })?;
            secrets.push(named(name, value));
        }
        for path in &self.secret_file {
            let name = path.display().to_string();
            secrets.push(named(&name, read_secret(path)?));
        }
        let named = provider.map(find).transpose()?;
        let mut given = RouteSecrets {
            preset: named,
            schemes: named.map(|preset| preset.schemes.clone()).unwrap_or_default(),
            secrets,
            ..RouteSecrets::default()
        };
        if let Some(route) = &self.route {
            let found = source.route(route)?;
            // A route may have only some of its provider's schemes.
            if named.is_none() || is_same(named, found.preset) {
                given.preset = found.preset;
                given.schemes = found.schemes;
                given.bound = found.bound;
            }
            given.public_url = found.public_url;
            given.verify_token = found.verify_token;
            given.quarantine = found.quarantine;
            given.secrets.extend(found.secrets);
        }
        if given.schemes.is_empty() {
            let text = match given.preset {
                Some(preset) => format!("{} signs nothing", preset.title),
                None => {
                    "name the provider whose scheme is used, or a route of the configuration with --route NAME".to_owned()
                }
            };
            return Err(CliError::Config(text));
        }
        Ok(given)
    }
}

/// With a route the provider may be left out: then what stands in its place, and is none, is the word that comes after it.
pub(super) fn misplaced(provider: &mut Option<String>, route: Option<&str>) -> Option<String> {
    route?;
    provider.take_if(|word| preset::find(word).is_none())
}

/// A URL without its query, and the query.
pub(super) fn split_query(url: &str) -> (&str, Option<&str>) {
    url.split_once('?')
        .map_or((url, None), |(url, query)| (url, Some(query)))
}

/// The refusal of a provider that is not the route's: what it signs, the route would not take.
pub(super) fn refuse_other(
    named: Option<&Preset>,
    route: &str,
    of_route: Option<&Preset>,
) -> Result<(), CliError> {
    let Some(named) = named else { return Ok(()) };
    let name = named.name.as_str();
    let theirs = match of_route {
        Some(own) if own.name == named.name => return Ok(()),
        Some(own) => format!(
            "is one of {} (provider = {:?}), not one of {}",
            own.title,
            own.name.as_str(),
            named.title
        ),
        None => "has no provider: its signature is described in `verify`".to_owned(),
    };
    Err(CliError::Config(format!(
        "route {route:?} {theirs}; leave {name:?} out, or name another route"
    )))
}

/// Whether both are the same preset.
pub(super) fn is_same(one: Option<&Preset>, other: Option<&Preset>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one.name == other.name)
}

/// The preset of that name.
pub(super) fn find(name: &str) -> Result<&'static Preset, CliError> {
    preset::find(name).ok_or_else(|| CliError::Provider {
        given: name.to_owned(),
    })
}

fn named(name: &str, text: Vec<u8>) -> NamedSecret {
    NamedSecret {
        name: SecretName::new(name),
        text: SecretText::new(text),
        until: None,
        of_route: true,
    }
}

fn read_secret(path: &Path) -> Result<Vec<u8>, CliError> {
    let text = fs::read(path).map_err(|error| CliError::File {
        path: path.to_owned(),
        error,
    })?;
    let text = Zeroizing::new(text);
    let line = text
        .strip_suffix(b"\n")
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    Ok(line.unwrap_or(&text).to_vec())
}

/// A source of fixed secrets, for the verbs' tests.
#[cfg(test)]
pub(super) mod fixed {
    use super::*;

    #[derive(Debug)]
    pub(crate) struct Fixed;

    impl SecretSource for Fixed {
        fn env(&self, name: &str) -> Option<Vec<u8>> {
            match name {
                "MAIN" => Some(b"canary-secret".to_vec()),
                "LINE" => Some(b"canary-secret\n".to_vec()),
                "DOCUMENTED" => Some(b"your-webhook-secret-here".to_vec()),
                "HEX" => Some(b"00112233445566778899aabbccddeeff".to_vec()),
                "EMPTY" => Some(Vec::new()),
                _ => None,
            }
        }

        fn route(&self, route: &str) -> Result<RouteSecrets, CliError> {
            let secrets = match route {
                "meta" => {
                    return Ok(RouteSecrets {
                        preset: Some(find("meta")?),
                        schemes: find("meta")?.schemes.clone(),
                        verify_token: Some(SecretText::new(b"canary-verify".to_vec())),
                        secrets: vec![named("main", b"canary-secret".to_vec())],
                        ..RouteSecrets::default()
                    });
                }
                "good" => vec![named("main", b"canary-secret".to_vec())],
                "swapped" => vec![
                    named("main", b"canary-other".to_vec()),
                    NamedSecret {
                        of_route: false,
                        ..named("other", b"canary-secret".to_vec())
                    },
                ],
                _ => return Err(CliError::Config(format!("there is no route {route:?}"))),
            };
            Ok(RouteSecrets {
                preset: Some(find("iverton")?),
                schemes: find("iverton")?.schemes.clone(),
                secrets,
                ..RouteSecrets::default()
            })
        }
    }

    #[test]
    fn a_secret_file_loses_one_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (content, expected) in [
            (&b"s"[..], &b"s"[..]),
            (b"s\n", b"s"),
            (b"s\r\n", b"s"),
            (b"s\n\n", b"s\n"),
            (b"s\r", b"s\r"),
            (b" s", b" s"),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(read_secret(&path).unwrap(), expected);
        }
    }
}
