//! Where a request wants to go, and whether that is on the list.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name of a host, in bytes (RFC 1035).
const MAX_HOST: usize = 253;

/// Scheme, host and port of a request, in one spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Whether it is `https`.
    pub tls: bool,
    /// A name in lower case, or an address without brackets.
    pub host: String,
    /// The port, the scheme's own when none was named.
    pub port: u16,
}

impl Target {
    /// Reads the authority of a request, strictly: what one library would read otherwise than another is refused.
    pub fn parse(tls: bool, authority: &str) -> Result<Target, String> {
        let (host, port) = split(authority)?;
        let default = if tls { 443 } else { 80 };
        Ok(Target {
            tls,
            host,
            port: port.unwrap_or(default),
        })
    }

    fn has_default_port(&self) -> bool {
        self.port == if self.tls { 443 } else { 80 }
    }

    /// The address, when that is what the host is.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Host and port, the latter unless it is the scheme's own.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        match self.has_default_port() {
            true => Ok(()),
            false => write!(f, ":{}", self.port),
        }
    }
}

/// A host, or all below a domain (`*.example.org`), at one port or at the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    below: bool,
    host: String,
    port: Option<u16>,
}

impl HostPattern {
    /// Reads a pattern as the configuration writes it: `HOST`, `HOST:PORT`, `*.DOMAIN`, `*.DOMAIN:PORT`.
    pub fn parse(text: &str) -> Result<HostPattern, String> {
        let (below, rest) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        let (host, port) = split(rest)?;
        if below && host.parse::<IpAddr>().is_ok() {
            return Err(format!("nothing is below an address, got {text:?}"));
        }
        Ok(HostPattern { below, host, port })
    }

    /// Whether a request may go there. Without a port only the scheme's own is meant.
    pub fn matches(&self, target: &Target) -> bool {
        let host = if self.below {
            let head = target.host.strip_suffix(self.host.as_str());
            head.and_then(|head| head.strip_suffix('.'))
                .is_some_and(|head| !head.is_empty())
        } else {
            target.host == self.host
        };
        host && match self.port {
            Some(port) => port == target.port,
            None => target.has_default_port(),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => write!(f, "{below}{}", self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Host, in one spelling, and port.
fn split(authority: &str) -> Result<(String, Option<u16>), String> {
    let wrong = |why: &str| Err(format!("{why}, got {:?}", shown(authority)));
    if authority.contains('@') {
        return wrong("a host is named without a user");
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return wrong("a bracket is not closed");
        };
        let Ok(address) = address.parse::<Ipv6Addr>() else {
            return wrong("expected an IPv6 address in brackets");
        };
        let port = match rest {
            "" => None,
            rest => match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None => return wrong("expected a port behind the brackets"),
            },
        };
        (address.to_string(), port)
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        (
            name(host).map_err(|why| format!("{why}, got {:?}", shown(authority)))?,
            port,
        )
    };
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => return wrong("a port is from 1 to 65535"),
        },
        Some(_) => return wrong("a port is a number"),
    };
    Ok((host, port))
}

/// A name in lower case, or an IPv4 address as everybody writes it.
fn name(host: &str) -> Result<String, &'static str> {
    if host.is_empty() || host.len() > MAX_HOST {
        return Err("a host has 1 to 253 bytes");
    }
    let host = host.to_ascii_lowercase();
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    if !host.split('.').all(good) {
        return Err("a host is made of letters, digits, `-`, `_` and `.`");
    }
    // 127.1, 2130706433, 0x7f.0.0.1 and 0177.0.0.1 are addresses to some resolvers and names to others.
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err("an IPv4 address is written as four decimal numbers");
    }
    Ok(host)
}

fn shown(authority: &str) -> &str {
    &authority[..authority.floor_char_boundary(100)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, String> {
        let (scheme, authority) = url.split_once("://").expect("a URL");
        Target::parse(scheme == "https", authority)
    }

    #[test]
    fn listed_hosts() {
        let allowed = |pattern: &str, url: &str| {
            let pattern = HostPattern::parse(pattern).expect(pattern);
            target(url).is_ok_and(|target| pattern.matches(&target))
        };
        for (pattern, url) in [
            ("api.example.com", "https://api.example.com"),
            ("api.example.com", "http://API.Example.Com"),
            ("api.example.com", "https://api.example.com:443"),
            ("api.example.com:8080", "http://api.example.com:8080"),
            ("*.example.org", "https://a.b.example.org"),
            ("*.example.org:8443", "https://a.example.org:8443"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("[::1]:8080", "http://[0:0:0:0:0:0:0:1]:8080"),
        ] {
            assert!(allowed(pattern, url), "{pattern} {url}");
        }
        for (pattern, url) in [
            ("api.example.com", "https://api.example.com:80"),
            ("api.example.com", "http://api.example.com:443"),
            ("api.example.com", "https://api.example.com."),
            ("api.example.com", "https://evilapi.example.com"),
            ("api.example.com", "https://api.example.com.evil.org"),
            ("api.example.com", "https://api.example.com@evil.org"),
            ("api.example.com:8080", "http://api.example.com"),
            ("*.example.org", "https://example.org"),
            ("*.example.org", "https://.example.org"),
            ("*.example.org", "https://evilexample.org"),
            ("*.example.org:8443", "https://a.example.org"),
        ] {
            assert!(!allowed(pattern, url), "{pattern} {url}");
        }
    }

    #[test]
    fn what_is_read_in_more_than_one_way_is_refused() {
        for bad in [
            "http://",
            "http://:80",
            "http://a@b",
            "http://a:b@c:80",
            "http://a:80:80",
            "http://a:+80",
            "http://a:0",
            "http://a:65536",
            "http://a:",
            "http://a b",
            "http://a\\b",
            "http://a%2eb",
            "http://a..b",
            "http://a.",
            "http://127.1",
            "http://2130706433",
            "http://0x7f000001",
            "http://0x7f.0.0.1",
            "http://0177.0.0.1",
            "http://127.0.0.01",
            "http://[::1",
            "http://[::1]80",
            "http://[::1%25lo]",
            "http://[127.0.0.1]",
            "http://::1",
            "http://１２７.0.0.1",
            "http://a。b",
        ] {
            assert!(target(bad).is_err(), "{bad}: {:?}", target(bad));
        }
        for bad in ["", "*", "*.", "*.127.0.0.1", "*.*.org", "a/b", "https://a"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
