//! `wasmqtt passwd`: a hash for `[broker.users]`.

use std::io::BufRead as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::access::password::{ITERATIONS, PasswordHash};
use crate::cli::OK;

/// Hash a password for the users of the embedded broker
///
/// Reads the password from standard input, one line, or from a file's first line, and prints the `password_hash`
/// for `[broker.users.NAME]`.
///
/// Example: wasmqtt passwd < password
#[derive(Debug, Args)]
pub(super) struct Passwd {
    /// Read the password from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How often it is hashed: what a guess costs whoever has the hash
    #[arg(long, value_name = "N", default_value_t = ITERATIONS, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    iterations: u32,
}

impl Passwd {
    pub(super) fn run(self) -> Result<u8> {
        let mut password = String::new();
        match &self.file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("failed to read {}", path.display()))?;
                password.push_str(text.lines().next().unwrap_or_default());
            }
            None => {
                std::io::stdin()
                    .lock()
                    .read_line(&mut password)
                    .context("failed to read standard input")?;
            }
        }
        let password = password.trim_end_matches(['\r', '\n']);
        ensure!(!password.is_empty(), "the password is empty");
        println!("{}", PasswordHash::new(password, self.iterations)?);
        Ok(OK)
    }
}
