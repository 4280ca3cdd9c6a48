//! References to modules that are elsewhere, `https://…` and `oci://…`, read strictly: what one library would read
//! otherwise than another is refused, so that what is checked is what is fetched. Pure.

use std::fmt;

use crate::grants::hosts::Target;
use crate::task::{Digest, quoted};

/// The longest reference, in bytes.
const MAX_LEN: usize = 2048;
/// The longest name of a repository, in bytes, as registries have it.
const MAX_REPOSITORY: usize = 255;
/// The tag that a reference without one means.
const LATEST: &str = "latest";

/// `https://host[:port]/path[?query][@sha256:HEX]`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpsRef {
    /// Where to.
    pub target: Target,
    /// Path and query.
    pub path: String,
    /// The SHA-256 of the module.
    pub pin: Option<Digest>,
}

/// `oci://registry[:port]/repository[:tag][@sha256:HEX]`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OciRef {
    /// Where the registry is, as it would be over TLS.
    pub registry: Target,
    /// The repository in it.
    pub repository: String,
    /// The tag, if one is named.
    pub tag: Option<String>,
    /// The SHA-256 of the manifest, as in OCI: not of the module.
    pub pin: Option<Digest>,
}

impl HttpsRef {
    /// Reads what follows `https://`.
    pub(super) fn parse(rest: &str) -> Result<HttpsRef, String> {
        let (rest, pin) = pinned(rest)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let wrong = |why: &str| Err(format!("{why}, got {}", quoted(rest)));
        if path.len() < 2 {
            return wrong("an https module has a path");
        }
        let plain = |c: char| c.is_ascii_graphic() && !"#\"<>\\^`{|}".contains(c);
        if !path.chars().all(plain) {
            return wrong("a module's address is printable ASCII without `#` and quotes");
        }
        let named = path.split_once('?').map_or(path, |(path, _)| path);
        let lower = named.to_ascii_lowercase();
        let climbs = named
            .split('/')
            .any(|segment| matches!(segment, "." | ".."));
        if climbs
            || ["%2e", "%2f", "%5c", "%00"]
                .iter()
                .any(|it| lower.contains(it))
        {
            return wrong("a module's path has no `.`, `..`, or encoded dots and slashes");
        }
        Ok(HttpsRef {
            target: host(authority)?,
            path: path.to_owned(),
            pin,
        })
    }
}

impl OciRef {
    /// Reads what follows `oci://`.
    pub(super) fn parse(rest: &str) -> Result<OciRef, String> {
        let (rest, pin) = pinned(rest)?;
        let wrong = |why: &str| Err(format!("{why}, got {}", quoted(rest)));
        let Some((registry, path)) = rest.split_once('/') else {
            return wrong("an oci module is registry/repository[:tag][@sha256:HEX]");
        };
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        let alone = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let part = |part: &str| {
            let ends = [part.bytes().next(), part.bytes().next_back()];
            ends.iter().all(|end| end.is_some_and(alone))
                && part.bytes().all(|b| alone(b) || b"._-".contains(&b))
                && !part.contains("..")
        };
        if repository.len() > MAX_REPOSITORY || !repository.split('/').all(part) {
            return wrong("a repository is parts of [a-z0-9._-] between `/`");
        }
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let is_tag = |tag: &str| {
            tag.len() <= 128
                && tag.bytes().next().is_some_and(word)
                && tag.bytes().all(|b| word(b) || b".-".contains(&b))
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return wrong("a tag is [A-Za-z0-9_][A-Za-z0-9._-]{0,127}");
        }
        Ok(OciRef {
            registry: host(registry)?,
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            pin,
        })
    }

    /// What the registry is asked for: the tag, which must still be what the pin says, else the pinned manifest.
    pub fn wanted(&self) -> String {
        match (&self.tag, &self.pin) {
            (Some(tag), _) => tag.clone(),
            (None, Some(pin)) => pin.to_string(),
            (None, None) => LATEST.to_owned(),
        }
    }
}

impl fmt::Display for HttpsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.target, self.path)?;
        self.pin.map_or(Ok(()), |pin| write!(f, "@{pin}"))
    }
}

impl fmt::Display for OciRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.pin.map_or(Ok(()), |pin| write!(f, "@{pin}"))
    }
}

/// What stands before the pin, and the pin.
fn pinned(rest: &str) -> Result<(&str, Option<Digest>), String> {
    if rest.len() > MAX_LEN {
        let why = "a module's address has at most";
        return Err(format!("{why} {MAX_LEN} bytes, got {}", quoted(rest)));
    }
    match rest.rsplit_once("@sha256:") {
        None => Ok((rest, None)),
        Some((before, hex)) => {
            let pin = Digest::parse_hex(hex)?;
            if pin.hex() != hex {
                return Err(format!("a pin is in lower case, got {}", quoted(hex)));
            }
            Ok((before, Some(pin)))
        }
    }
}

/// A host in the one spelling that it is printed in.
fn host(authority: &str) -> Result<Target, String> {
    let target = Target::parse(true, authority)?;
    if target.to_string() != authority {
        return Err(format!(
            "a module's host is written {target}, got {}",
            quoted(authority)
        ));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use crate::task::ModuleRef;

    #[test]
    fn references_are_read_strictly() {
        let pin = format!("@sha256:{}", "ab".repeat(32));
        for good in [
            "https://example.com/a.wasm",
            "https://example.com:8443/a/b.wasm?v=1&x=%20",
            "https://[::1]:8443/a.wasm",
            "https://127.0.0.1/a",
            "https://example.com/@scope/a.wasm",
            "oci://ghcr.io/acme/job",
            "oci://ghcr.io/acme/job:1.0_b",
            "oci://localhost:5000/a__b/c-d.e:v1",
        ] {
            for good in [good.to_owned(), format!("{good}{pin}")] {
                let read = ModuleRef::parse(&good).map(|read| read.to_string());
                assert_eq!(read, Ok(good));
            }
        }
        for bad in [
            "https://example.com",
            "https://example.com/",
            "https:///a",
            "https://user@example.com/a",
            "https://user:word@example.com/a",
            "https://example.com/a#b",
            "https://example.com/a b",
            "https://example.com/a\u{e9}",
            "https://example.com/a\\b",
            "https://example.com/../a",
            "https://example.com/a/%2E%2e/b",
            "https://example.com/a%2fb",
            "https://EXAMPLE.com/a",
            "https://example.com:443/a",
            "https://example.com:0/a",
            "https://2130706433/a",
            "https://0x7f.1/a",
            "https://127.1/a",
            "https://example.com./a",
            "https://example.com/a@sha256:abcd",
            &format!("https://example.com/a@sha256:{}", "AB".repeat(32)),
            &format!("https://example.com/{}", "a".repeat(2048)),
            "HTTPS://example.com/a",
            "http://example.com/a",
            "oci://ghcr.io",
            "oci://ghcr.io/",
            "oci://ghcr.io/Acme/job",
            "oci://ghcr.io/acme//job",
            "oci://ghcr.io/acme/../job",
            "oci://ghcr.io/acme/job:",
            "oci://ghcr.io/acme/job:-a",
            "oci://ghcr.io/acme/job:a:b",
            "oci://user@ghcr.io/acme/job",
            "oci://ghcr.io/acme/job?x",
            "oci://ghcr.io/acme/job@sha512:ab",
        ] {
            assert!(ModuleRef::parse(bad).is_err(), "{bad:?}");
        }
    }
}
