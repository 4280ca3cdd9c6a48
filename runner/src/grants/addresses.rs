//! Which addresses the outside world has: a stranger's request may go nowhere else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What is special about IPv4: prefix, its bits, what it is. Source: IANA's special-purpose registry, and two addresses
/// at which clouds tell machines their secrets.
const SPECIAL_V4: &[(Ipv4Addr, u8, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (
        Ipv4Addr::new(100, 64, 0, 0),
        10,
        "shared (carrier-grade NAT)",
    ),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "metadata"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved for protocols"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved or broadcast"),
];

/// What is special within 2000::/3, the only IPv6 addresses that are anybody's in the open.
const SPECIAL_V6: &[(Ipv6Addr, u8, &str)] = &[
    (
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0),
        23,
        "reserved for protocols (Teredo and others)",
    ),
    (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        32,
        "documentation",
    ),
    (
        Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0),
        16,
        "6to4, which carries an IPv4 address",
    ),
    (
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0),
        20,
        "documentation",
    ),
];

/// Why an address is not a public one; `None` when it is.
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    let within = |net: IpAddr, bits: u8| is_within(address, net, bits);
    match address {
        IpAddr::V4(_) => SPECIAL_V4
            .iter()
            .find(|(net, bits, _)| within((*net).into(), *bits))
            .map(|(_, _, what)| *what),
        // Loopback, link-local, unique local, multicast, and every form that carries an IPv4 address (mapped,
        // compatible, NAT64) lie outside.
        IpAddr::V6(_) if !within(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0).into(), 3) => {
            Some("no global unicast address")
        }
        IpAddr::V6(_) => SPECIAL_V6
            .iter()
            .find(|(net, bits, _)| within((*net).into(), *bits))
            .map(|(_, _, what)| *what),
    }
}

fn is_within(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    let (address, net, width) = match (address, net) {
        (IpAddr::V4(address), IpAddr::V4(net)) => {
            (u32::from(address).into(), u32::from(net).into(), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(net)) => (u128::from(address), u128::from(net), 128),
        _ => return false,
    };
    let rest = width - u32::from(bits);
    address.checked_shr(rest).unwrap_or(0) == net.checked_shr(rest).unwrap_or(0)
}

/// Addresses, at one port or at all: `10.1.2.3`, `10.0.0.0/8`, `127.0.0.1:8080`, `[::1]:8080`, `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPattern {
    net: IpAddr,
    bits: u8,
    port: Option<u16>,
}

impl AddressPattern {
    /// Reads a pattern as the configuration writes it.
    pub fn parse(text: &str) -> Result<AddressPattern, String> {
        let wrong = || format!("expected ADDRESS, ADDRESS/BITS or ADDRESS:PORT, got {text:?}");
        let width = |net: IpAddr| if net.is_ipv4() { 32 } else { 128 };
        if let Ok(socket) = text.parse::<SocketAddr>() {
            let net = socket.ip();
            return Ok(AddressPattern {
                net,
                bits: width(net),
                port: Some(socket.port()),
            });
        }
        let (net, bits) = match text.split_once('/') {
            Some((net, bits)) => (net, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let net: IpAddr = net.parse().map_err(|_| wrong())?;
        let bits = bits.unwrap_or(width(net));
        if bits > width(net) {
            return Err(wrong());
        }
        let port = None;
        Ok(AddressPattern { net, bits, port })
    }

    /// Whether an address is one of those meant.
    pub fn matches(&self, address: SocketAddr) -> bool {
        is_within(address.ip(), self.net, self.bits)
            && self.port.is_none_or(|port| port == address.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn what_is_not_public() {
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.171",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a9fe:a9fe",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "4000::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(not_public(ip(refused)).is_some(), "{refused}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450::1",
        ] {
            assert_eq!(not_public(ip(public)), None, "{public}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, matching, other) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1:8081"),
            ("10.0.0.0/8", "10.9.8.7:1", "11.0.0.0:1"),
            ("10.1.2.3", "10.1.2.3:9", "10.1.2.4:9"),
            ("[::1]:80", "[::1]:80", "[::2]:80"),
            ("fd00::/8", "[fd12::1]:443", "[fe80::1]:443"),
            ("0.0.0.0/0", "127.0.0.1:1", "[::1]:1"),
        ] {
            let pattern = AddressPattern::parse(pattern).expect(pattern);
            assert!(pattern.matches(matching.parse().expect("an address")));
            assert!(!pattern.matches(other.parse().expect("an address")));
        }
        for bad in ["", "localhost", "10.0.0.0/33", "::1:80x", "10.0.0.0/8:80"] {
            assert!(AddressPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
