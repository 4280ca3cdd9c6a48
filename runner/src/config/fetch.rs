//! `[fetch]`: how modules are fetched from web servers and registries.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::grants::addresses::AddressPattern;
use crate::grants::hosts::HostPattern;
use crate::modules::source::web::Settings;

/// `[fetch]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fetch {
    /// PEM: authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The folder of Docker's `config.json`; `$DOCKER_CONFIG` or `~/.docker` when absent.
    pub docker_config: Option<PathBuf>,
    /// Addresses that are allowed though they are not public.
    pub private_addresses: Vec<String>,
    /// Registries without TLS.
    pub insecure_registries: Vec<String>,
    /// Seconds that fetching a module may take.
    pub timeout_s: u64,
    /// Seconds of silence after which a server is given up.
    pub stall_s: u64,
    /// Seconds after which a server is asked whether a module, or a tag, is another now.
    pub recheck_s: u64,
}

impl Default for Fetch {
    fn default() -> Self {
        Fetch {
            ca_file: None,
            docker_config: None,
            private_addresses: Vec::new(),
            insecure_registries: Vec::new(),
            timeout_s: 120,
            stall_s: 10,
            recheck_s: 300,
        }
    }
}

impl Fetch {
    /// The same, read; the authorities are left in their file.
    pub fn settings(&self) -> Result<Settings> {
        for (key, value, most) in [
            ("timeout_s", self.timeout_s, 3_600),
            ("stall_s", self.stall_s, 3_600),
            ("recheck_s", self.recheck_s, 31 * 86_400),
        ] {
            ensure!(
                (1..=most).contains(&value),
                "`fetch.{key}` must be from 1 to {most}, got {value}"
            );
        }
        let private = self.private_addresses.iter();
        let insecure = self.insecure_registries.iter();
        Ok(Settings {
            ca_file: self.ca_file.clone(),
            docker_config: self.docker_config.clone(),
            private: private
                .map(|text| AddressPattern::parse(text))
                .collect::<Result<_, _>>()
                .map_err(anyhow::Error::msg)
                .context("failed to read `fetch.private_addresses`")?,
            insecure: insecure
                .map(|text| HostPattern::parse(text))
                .collect::<Result<_, _>>()
                .map_err(anyhow::Error::msg)
                .context("failed to read `fetch.insecure_registries`")?,
            timeout: Duration::from_secs(self.timeout_s),
            stall: Duration::from_secs(self.stall_s),
            recheck: Duration::from_secs(self.recheck_s),
        })
    }
}
