//! Secrets for `sign` and `verify` from the configuration that the gateway runs on.

use super::error::CliError;
use super::secret_args::{RouteSecrets, SecretSource};
use super::{Global, colour};
use crate::config::{Env, ProcessEnv, inspect_file, secret_texts};
use crate::provider::explain::NamedSecret;
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
        let Some(found) = found else {
            let names: Vec<&str> = config
                .routes
                .routes
                .iter()
                .map(|route| route.name.as_str())
                .collect();
            let text = format!("there is no route {route:?}; the routes are {}", names.join(", "));
            return Err(CliError::Config(text));
        };
        let Verify::Signature { proofs, .. } = &found.verify else {
            return Err(CliError::Config(format!(
                "route {route:?} has verify = \"none\": nothing is signed"
            )));
        };
        let text = std::fs::read_to_string(&path).map_err(|error| CliError::File { path, error })?;
        let mut secrets: Vec<NamedSecret> = secret_texts(&text, &ProcessEnv)
            .into_iter()
            .map(|(name, text, until)| NamedSecret {
                of_route: proofs
                    .iter()
                    .flat_map(|proof| &proof.keys)
                    .any(|key| key.name == name),
                name,
                text,
                until,
            })
            .collect();
        secrets.sort_by_key(|secret| !secret.of_route);
        Ok(RouteSecrets {
            schemes: proofs.iter().map(|proof| (*proof.scheme).clone()).collect(),
            quarantine: config
                .store
                .as_ref()
                .map(|store| store.path.join(QUARANTINE).join(folder_name(route))),
            public_url: found.public_url.as_deref().map(str::to_owned),
            secrets,
        })
    }
}
