//! Secrets for `sign` and `verify` from the configuration that the gateway runs on.

use super::error::{CliError, nearest};
use super::secret_args::{RouteSecrets, SecretSource};
use super::{Global, colour};
use crate::config::{Config, Env, ProcessEnv, inspect_file, secret_texts};
use crate::event::SecretName;
use crate::provider::explain::NamedSecret;
use crate::provider::preset;
use crate::receive::folder_name;
use crate::receive::settings::Verify;
use crate::run::QUARANTINE;

/// The configuration named on the command line, and the process's environment.
#[derive(Debug)]
pub(super) struct ConfigSecrets<'a>(pub(super) &'a Global);

impl SecretSource for ConfigSecrets<'_> {
    fn env(&self, name: &str) -> Option<Vec<u8>> {
        ProcessEnv.var(name)
    }

    fn route(&self, route: &str) -> Result<RouteSecrets, CliError> {
        let path = self.0.config_path();
        let (config, problems) = inspect_file(&path, &ProcessEnv);
        let config = config.ok_or_else(|| CliError::Config(problems.render(colour())))?;
        let found = config
            .routes
            .routes
            .iter()
            .find(|candidate| candidate.name.as_str() == route);
        let found = found.ok_or_else(|| no_route(&config, route))?;
        let Verify::Signature { proofs, .. } = &found.verify else {
            return Err(CliError::Config(format!(
                "route {route:?} has verify = \"none\": nothing is signed"
            )));
        };
        let text = std::fs::read_to_string(&path).map_err(|error| CliError::File { path, error })?;
        let bound: Vec<(SecretName, Box<str>)> = proofs
            .iter()
            .flat_map(|proof| {
                let keys = proof.keys.iter();
                keys.map(|key| (key.name.clone(), proof.scheme.name.clone()))
            })
            .collect();
        let place = |name: &SecretName| bound.iter().position(|(known, _)| known == name);
        let mut secrets: Vec<NamedSecret> = secret_texts(&text, &ProcessEnv)
            .into_iter()
            .map(|(name, text, until)| NamedSecret {
                of_route: place(&name).is_some(),
                name,
                text,
                until,
            })
            .collect();
        let now = ProcessEnv.now();
        secrets.sort_by_key(|secret| {
            let expired = secret.until.is_some_and(|until| now >= until);
            let place = place(&secret.name);
            (place.is_none(), expired, place)
        });
        Ok(RouteSecrets {
            preset: preset::find(found.provider.as_str()),
            schemes: proofs.iter().map(|proof| (*proof.scheme).clone()).collect(),
            quarantine: config
                .store
                .as_ref()
                .map(|store| store.path.join(QUARANTINE).join(folder_name(route))),
            public_url: found.public_url.as_deref().map(str::to_owned),
            verify_token: found.verify_token.clone(),
            secrets,
            bound,
        })
    }
}

/// What is said of a route that is not there: its path is often written in place of its name.
pub(super) fn no_route(config: &Config, given: &str) -> CliError {
    let names: Vec<&str> = config
        .routes
        .routes
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    CliError::Config(no_route_of(&names, given))
}

/// The same, of these names.
pub(super) fn no_route_of(names: &[&str], given: &str) -> String {
    let names = || names.iter().copied();
    let bare = given.trim_matches('/');
    let near = names()
        .find(|name| *name == bare)
        .or_else(|| nearest(given, names()));
    let near = near.map_or_else(String::new, |near| format!("; did you mean {near:?}"));
    let names: Vec<&str> = names().collect();
    match names.as_slice() {
        [] => format!("there is no route {given:?}, nor any other"),
        names => format!(
            "there is no route {given:?}{near}; the routes are {}",
            names.join(", ")
        ),
    }
}
