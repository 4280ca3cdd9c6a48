//! Detached signatures of modules, in minisign's format: making keys, signing, checking.
//!
//! A signature is over the module's bytes, all of them, and stands beside the module wherever that is. Whether a tenant
//! wants one is not decided here.

use std::io::Cursor;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use minisign::{KeyPair, PublicKey, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};
use moka::future::Cache;
use sha2::{Digest as _, Sha256};

use crate::modules::Content;
use crate::modules::loader::blocking;
use crate::modules::source::Found;
use crate::task::Digest;
use crate::task::outcome::{ErrorCode, TaskError};
use crate::tenants::Signer;

/// How many verdicts are remembered: checking takes a hash of the module, which is much for every task.
const REMEMBERED: u64 = 10_000;
/// Characters of 64 bytes in base64: the signature of signature and comment.
const GLOBAL: usize = 88;

/// Reads a public key: its 56 characters, or the two lines of a `.pub` file. An error does not repeat the text: it may be
/// a secret.
pub fn signer(text: &str) -> Result<Signer> {
    let text = text.trim();
    let is_secret = |line: &str| {
        let bytes = STANDARD.decode(line.trim());
        bytes.is_ok_and(|bytes| SecretKey::from_bytes(&bytes).is_ok())
    };
    ensure!(
        !text.lines().any(is_secret),
        "this is the secret half of a key: the public one is wanted, and whoever saw this one can sign"
    );
    let key = match text.contains('\n') {
        true => PublicKeyBox::from_string(text).and_then(PublicKeyBox::into_public_key),
        false => PublicKey::from_base64(text),
    };
    let key = key.map_err(|error| anyhow!("{error}"));
    let key = key.context("it is no public key of minisign's")?;
    Ok(Signer::new(key.to_base64()))
}

/// A key to sign with.
pub struct SigningKey(SecretKey);

/// A key that was just made, as its two files have it.
pub struct KeyFiles {
    /// The secret half.
    pub secret: String,
    /// The public half.
    pub public: String,
    /// The public half as tenants' `signed_by` has it.
    pub signer: Signer,
}

/// Makes a key; one with a password asks for it on the terminal.
pub fn generate(password: bool) -> Result<KeyFiles> {
    let made = match password {
        true => KeyPair::generate_encrypted_keypair(None),
        false => KeyPair::generate_unencrypted_keypair(),
    };
    let failed = |error| anyhow!("failed to make a key: {error}");
    let pair = made.map_err(failed)?;
    let public = pair.pk.to_box().map_err(failed)?.into_string();
    let secret = pair.sk.to_box(Some("wasmqtt secret key")).map_err(failed)?;
    Ok(KeyFiles {
        secret: secret.into_string(),
        signer: Signer::new(pair.pk.to_base64()),
        public,
    })
}

impl SigningKey {
    /// Reads the secret half, of minisign's own too; one with a password asks for it on the terminal.
    pub fn parse(text: &str) -> Result<SigningKey> {
        let encoded = text.lines().nth(1).unwrap_or_default().trim();
        let bytes = STANDARD
            .decode(encoded)
            .context("its second line is no base64")?;
        let failed = |error| anyhow!("{error}");
        let key = SecretKey::from_bytes(&bytes).map_err(failed)?;
        if !key.is_encrypted() {
            // Minisign's own have no checksum then; a key that is not whole is noticed when it signs.
            return Ok(SigningKey(key));
        }
        let key = SecretKeyBox::from_string(text).map_err(failed)?;
        Ok(SigningKey(key.into_secret_key(None).map_err(failed)?))
    }

    /// Signs a module: the text of a `.minisig` file.
    pub fn sign(&self, content: &Content) -> Result<String> {
        let trusted = format!("module {}", content.digest);
        let bytes = Cursor::new(&content.bytes);
        let comment = Some("signature of a wasmqtt module");
        let failed = |error| anyhow!("failed to sign: {error}");
        let public = PublicKey::from_secret_key(&self.0).map_err(failed)?;
        let signed = minisign::sign(Some(&public), &self.0, bytes, Some(&trusted), comment);
        Ok(signed.map_err(failed)?.into_string())
    }
}

/// Whether a signature is this signer's, over these bytes.
pub fn verify(signer: &Signer, bytes: &[u8], signature: &[u8]) -> Result<()> {
    let Ok(text) = std::str::from_utf8(signature) else {
        bail!("it is no text");
    };
    // The library takes its length for granted.
    let global = text.lines().nth(3).map_or(0, |line| line.trim().len());
    ensure!(
        global == GLOBAL,
        "its fourth line has {global} characters, not {GLOBAL}"
    );
    let signature = SignatureBox::from_string(text).map_err(|error| anyhow!("{error}"))?;
    let key = PublicKey::from_base64(signer.as_str()).map_err(|error| anyhow!("{error}"))?;
    let (quiet, output, legacy) = (true, false, false);
    minisign::verify(&key, &signature, Cursor::new(bytes), quiet, output, legacy)
        .map_err(|error| anyhow!("{error}"))
}

/// What was checked before.
pub(super) struct Signatures(Cache<(Digest, Digest, Vec<Signer>), Result<(), String>>);

impl Default for Signatures {
    fn default() -> Self {
        Signatures(Cache::new(REMEMBERED))
    }
}

impl Signatures {
    /// Whether one of the signers signed what was found.
    pub(super) async fn check(&self, found: &Found, signers: &[Signer]) -> Result<(), TaskError> {
        let digest = found.digest;
        let invalid = |why: &str| {
            let why = format!("module {digest} is not signed by a key of its tenant's: {why}");
            TaskError::new(ErrorCode::SignatureInvalid, why)
        };
        let Some(signature) = found.signature.clone() else {
            return Err(invalid("there is no signature beside it"));
        };
        let of_signature = Digest::new(Sha256::digest(&signature).into());
        let key = (digest, of_signature, signers.to_vec());
        let check = async {
            let content = found.content().await?.ok_or_else(|| {
                let why = format!("module {digest} was replaced while it was read");
                TaskError::new(ErrorCode::ModuleUnavailable, why)
            })?;
            let keys = signers.to_vec();
            blocking(move || Ok(check(&content.bytes, &signature, &keys))).await
        };
        match self.0.try_get_with(key, check).await {
            Ok(verdict) => verdict.map_err(|why| invalid(&why)),
            Err(error) => Err(TaskError::clone(&error)),
        }
    }
}

fn check(bytes: &Bytes, signature: &Bytes, signers: &[Signer]) -> Result<(), String> {
    let mut last = String::new();
    for signer in signers {
        match verify(signer, bytes, signature) {
            Ok(()) => return Ok(()),
            Err(why) => last = format!("{why:#}"),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_one_keys_over_these_bytes() {
        let (ours, theirs) = (generate(false), generate(false));
        let (ours, theirs) = (ours.expect("a key"), theirs.expect("a key"));
        let key = SigningKey::parse(&ours.secret).expect("a secret key");
        let content = Content::new(&b"a module"[..]);
        let signature = key.sign(&content).expect("signed");
        let check = |signer: &Signer, bytes: &[u8], signature: &str| {
            verify(signer, bytes, signature.as_bytes()).is_ok()
        };
        assert!(check(&ours.signer, b"a module", &signature));
        let cut = signature.trim_end();
        let cut = format!("{}====", &cut[..cut.len() - 48]);
        assert!(!check(&theirs.signer, b"a module", &signature));
        assert!(!check(&ours.signer, b"a modulf", &signature));
        assert!(!check(&ours.signer, b"", &signature));
        for at in 0..signature.trim_end().len() {
            let mut changed = signature.clone().into_bytes();
            changed[at] ^= 1;
            let line = signature[..at].matches('\n').count();
            let valid = verify(&ours.signer, b"a module", &changed).is_ok();
            // The first line is a comment that nobody signs.
            assert!(!valid || line == 0, "line {line}, byte {at}");
        }
        for text in ["", "a", "\n\n\n\n", &signature[..40], &cut] {
            assert!(!check(&ours.signer, b"a module", text), "{text:?}");
        }
    }

    /// Debian's minisign 0.11 leaves the checksum out of keys without a password.
    #[test]
    fn a_key_of_minisigns_own_signs() {
        let made = generate(false).expect("a key");
        let (comment, encoded) = made.secret.split_once('\n').expect("two lines");
        let mut bytes = STANDARD.decode(encoded.trim()).expect("base64");
        let checksum = bytes.len() - 32;
        bytes[checksum..].fill(0);
        let theirs = |bytes: &[u8]| format!("{comment}\n{}\n", STANDARD.encode(bytes));
        let content = Content::new(&b"a module"[..]);
        let key = SigningKey::parse(&theirs(&bytes)).expect("a secret key");
        let signature = key.sign(&content).expect("signed");
        verify(&made.signer, b"a module", signature.as_bytes()).expect("its own");
        // Its public half is not its own any more.
        bytes[checksum - 1] ^= 1;
        let damaged = SigningKey::parse(&theirs(&bytes)).expect("a secret key");
        assert!(damaged.sign(&content).is_err());
        for bad in ["", "a\nb", "a\n\n", &made.secret[..120]] {
            assert!(SigningKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn public_keys_are_read_from_both_forms() {
        let made = generate(false).expect("a key");
        for text in [made.public.as_str(), made.signer.as_str()] {
            assert_eq!(signer(text).expect("a key"), made.signer);
        }
        for bad in ["", "RWQ", "hello world"] {
            assert!(signer(bad).is_err(), "{bad}");
        }
        let (_, secret) = made.secret.split_once('\n').expect("two lines");
        for secret in [&made.secret, secret] {
            let said = format!("{:#}", signer(secret).expect_err("refused"));
            assert!(said.starts_with("this is the secret half"), "{said}");
        }
    }
}
