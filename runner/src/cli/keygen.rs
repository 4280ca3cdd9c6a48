//! `wasmqtt keygen` and `wasmqtt sign`: keys, and signatures beside files.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::cli::OK;
use crate::modules::Content;
use crate::modules::signature::{self, SigningKey};

/// Make a key to sign modules with
///
/// Writes NAME.key (the secret half, mode 0600) and NAME.pub, in the format of minisign, and prints the public key as tenants'
/// `signed_by` has it. Files that are there are not overwritten.
///
/// Example: wasmqtt keygen release
#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// The files' name, without .key and .pub
    #[arg(default_value = "wasmqtt")]
    name: PathBuf,
    /// Ask for a password, under which the secret half is encrypted
    #[arg(long)]
    password: bool,
}

/// Sign a module: writes FILE.minisig beside it
///
/// For modules in a folder or on a web server; `push --sign` signs what it publishes. In a registry the text of that file
/// is the annotation vnd.wasmqtt.minisig of the manifest. Debian's `minisign -S` does the same.
///
/// Example: wasmqtt sign upper.wasm --key release.key
#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The module
    file: PathBuf,
    /// The secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl Keygen {
    pub(super) fn run(self) -> Result<u8> {
        let (secret, public) = (
            with_ending(&self.name, "key"),
            with_ending(&self.name, "pub"),
        );
        for file in [&secret, &public] {
            ensure!(!file.exists(), "{} is there already", file.display());
        }
        let made = signature::generate(self.password)?;
        write(&secret, &made.secret, 0o600)?;
        write(&public, &made.public, 0o644)?;
        println!("{}", made.signer.as_str());
        Ok(OK)
    }
}

impl Sign {
    pub(super) fn run(self) -> Result<u8> {
        let shown = self.file.display();
        let bytes = std::fs::read(&self.file).with_context(|| format!("failed to read {shown}"))?;
        let signature = key(&self.key)?.sign(&Content::new(bytes))?;
        let beside = with_ending(&self.file, "minisig");
        std::fs::write(&beside, signature)
            .with_context(|| format!("failed to write {}", beside.display()))?;
        println!("{}", beside.display());
        Ok(OK)
    }
}

/// A secret key's file.
pub(super) fn key(file: &Path) -> Result<SigningKey> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {shown}"))?;
    SigningKey::parse(&text).with_context(|| format!("{shown} is no usable secret key"))
}

/// Beside it: `upper.wasm` → `upper.wasm.minisig`.
pub(super) fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn write(file: &Path, text: &str, mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(mode);
    options
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("failed to write {}", file.display()))
}
