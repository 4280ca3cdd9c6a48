//! What a registry knows us by: Docker's configuration, with its credential helpers.

use std::fs::File;
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use tracing::warn;

use crate::grants::hosts::Target;
use crate::modules::source::get::Failed;

/// Under which name Docker keeps what is for Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What a helper says that has nothing for a registry, and fails.
const NOT_FOUND: &str = "credentials not found in native keychain";

pub(super) struct Credentials {
    folder: Option<PathBuf>,
}

/// A user and a password.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl Credentials {
    pub(super) fn new(folder: Option<PathBuf>) -> Credentials {
        let from = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        let folder = folder
            .or_else(|| from("DOCKER_CONFIG"))
            .or_else(|| from("HOME").map(|home| home.join(".docker")));
        Credentials { folder }
    }

    /// What is configured for a registry, if anything is. Read each time: tokens of helpers expire.
    pub(super) async fn of(&self, registry: &Target) -> Result<Option<Login>, Failed> {
        let Some(file) = self
            .folder
            .as_ref()
            .map(|folder| folder.join("config.json"))
        else {
            return Ok(None);
        };
        let server = match registry.host.as_str() {
            "docker.io" => DOCKER_HUB.to_owned(),
            _ => registry.to_string(),
        };
        let read = move || match File::open(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
            Ok(config) => match get_credential_from_reader(config, &server) {
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    Ok(Some(Login { user, password }))
                }
                Ok(DockerCredential::IdentityToken(_)) => {
                    Err("an identity token is not supported".to_owned())
                }
                Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
                Err(CredentialRetrievalError::HelperFailure { stdout, .. })
                    if stdout.trim() == NOT_FOUND =>
                {
                    Ok(None)
                }
                Err(error) => Err(error.to_string()),
            },
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.unwrap_or_else(|died| Err(died.to_string()));
        read.map_err(|error| {
            // For the operator: it may have what a helper printed.
            warn!(%registry, error, "the credentials of a registry cannot be read");
            Failed::unavailable(format!(
                "the runner's credentials for {registry} cannot be read"
            ))
        })
    }
}
