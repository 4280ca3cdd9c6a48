//! Passwords: made, hashed and checked. PBKDF2 with HMAC-SHA-512 (RFC 8018), which is what mosquitto stores too.

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha512;

/// For passwords that people choose: OWASP's number for this hash (2023). About 0.1 s of one core.
pub const ITERATIONS: u32 = 210_000;
/// For passwords of [`generate`], which nobody guesses. mosquitto hashes in its only thread: more would stall everybody.
pub const GENERATED: u32 = 1_000;
/// Bytes of a hash.
const HASH: usize = 64;
/// Bytes of a salt; mosquitto 2.0 takes exactly 12.
const SALT: usize = 12;
/// What a hash may cost at most: it is computed for whoever connects.
const MAX_ITERATIONS: u32 = 10_000_000;
const NAME: &str = "pbkdf2-sha512";

/// A salted hash, written as `$pbkdf2-sha512$i=ITERATIONS$SALT$HASH` (base64 without padding).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) hash: Vec<u8>,
}

impl PasswordHash {
    /// Hashes a password under a new salt.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(password: &str, iterations: u32) -> Result<PasswordHash> {
        let salt = random::<SALT>()?.to_vec();
        let hash = derive(password.as_bytes(), &salt, iterations).to_vec();
        Ok(PasswordHash {
            iterations,
            salt,
            hash,
        })
    }

    /// Reads what [`Display`](std::fmt::Display) writes.
    pub fn parse(text: &str) -> Result<PasswordHash, String> {
        // Not the text itself: a password may stand there by mistake.
        let wrong = || {
            format!(
                "a password hash is `${NAME}$i=NUMBER$SALT$HASH`, as `wasmqtt passwd` prints it"
            )
        };
        let fields: Vec<&str> = text.split('$').collect();
        let ["", NAME, iterations, salt, hash] = fields[..] else {
            return Err(wrong());
        };
        let iterations = iterations.strip_prefix("i=").and_then(|i| i.parse().ok());
        let iterations = iterations.filter(|i| (1..=MAX_ITERATIONS).contains(i));
        let bytes = |text: &str| STANDARD_NO_PAD.decode(text).ok();
        match (iterations, bytes(salt), bytes(hash)) {
            (Some(iterations), Some(salt), Some(hash)) if hash.len() == HASH && salt.len() >= 8 => {
                Ok(PasswordHash {
                    iterations,
                    salt,
                    hash,
                })
            }
            _ => Err(wrong()),
        }
    }

    /// How often a password is hashed to be compared.
    pub fn cost(&self) -> u32 {
        self.iterations
    }

    /// Whether this is the password; takes as long if it is not. Up to seconds of CPU, by the iterations.
    pub fn fits(&self, password: &[u8]) -> bool {
        let derived = derive(password, &self.salt, self.iterations);
        derived.len() == self.hash.len()
            && derived
                .iter()
                .zip(&self.hash)
                .fold(0, |differ, (a, b)| differ | (a ^ b))
                == 0
    }
}

impl std::fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (salt, hash) = (
            STANDARD_NO_PAD.encode(&self.salt),
            STANDARD_NO_PAD.encode(&self.hash),
        );
        write!(f, "${NAME}$i={}${salt}${hash}", self.iterations)
    }
}

/// A password nobody guesses: 192 bits, in characters that need no quoting anywhere.
pub fn generate() -> Result<String> {
    // Else one in 64 would look like an option where it is an argument.
    Ok(format!("w{}", URL_SAFE_NO_PAD.encode(random::<24>()?)))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("failed to read /dev/urandom")?;
    Ok(bytes)
}

/// PBKDF2 for one block, which is all that a hash of this length takes.
fn derive(password: &[u8], salt: &[u8], iterations: u32) -> [u8; HASH] {
    let Ok(keyed) = Hmac::<Sha512>::new_from_slice(password) else {
        unreachable!("an HMAC takes keys of any length");
    };
    let next = |message: &[&[u8]]| -> [u8; HASH] {
        let mut mac = keyed.clone();
        message.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let mut block = next(&[salt, &1_u32.to_be_bytes()]);
    let mut derived = block;
    for _ in 1..iterations {
        block = next(&[&block]);
        derived
            .iter_mut()
            .zip(block)
            .for_each(|(sum, byte)| *sum ^= byte);
    }
    derived
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of Python's `hashlib.pbkdf2_hmac('sha512', …)`.
    #[test]
    fn known_answers() {
        let hex =
            |bytes: [u8; HASH]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(
            hex(derive(b"password", b"salt", 1)),
            "867f70cf1ade02cff3752599a3a53dc4af34c7a669815ae5d513554e1c8cf252\
             c02d470a285a0501bad999bfe943c08f050235d7d68b1da55e63f73b60a57fce"
        );
        assert_eq!(
            hex(derive(b"password", b"salt", 4096)),
            "d197b1b33db0143e018b12f3d1d1479e6cdebdcc97c5c0f87f6902e072f457b5\
             143f30602641b3d55cd335988cb36b84376060ecd532e039b742a239434af2d5"
        );
    }

    #[test]
    fn written_and_read() {
        let hash = PasswordHash::new("hunter2", 10).expect("a hash");
        let read = PasswordHash::parse(&hash.to_string()).expect("a hash");
        assert_eq!(read, hash);
        assert!(read.fits(b"hunter2") && !read.fits(b"hunter3") && !read.fits(b""));
        assert_ne!(PasswordHash::new("hunter2", 10).expect("a hash"), hash);
        for bad in [
            "",
            "hunter2",
            "$pbkdf2-sha512$i=0$AAAAAAAAAAAA$AA",
            "$2b$12$x",
            "$pbkdf2-sha512$i=1$$",
        ] {
            let why = PasswordHash::parse(bad).expect_err(bad);
            assert!(!why.contains("hunter2"), "{why}");
        }
        assert_ne!(
            generate().expect("a password"),
            generate().expect("a password")
        );
    }
}
