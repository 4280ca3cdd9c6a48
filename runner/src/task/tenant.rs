//! Whose task it is. The tenant is read from the topic, so that a broker's ACL can enforce it.

use std::fmt;
use std::sync::Arc;

use crate::task::quoted;

/// A tenant: `default`, or 1 to 64 characters of `[a-z0-9_-]` that begin with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The name of the tenant that uses the bare topic names.
    pub const DEFAULT: &'static str = "default";

    /// Checks a tenant's name.
    pub fn parse(text: &str) -> Result<TenantId, String> {
        let head = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let all = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if head && text.len() <= 64 && text.bytes().all(all) {
            return Ok(TenantId(text.into()));
        }
        Err(format!(
            "a tenant is [a-z0-9][a-z0-9_-]{{0,63}}, got {}",
            quoted(text)
        ))
    }

    /// Whether it is the tenant of the bare topic names.
    pub fn is_default(&self) -> bool {
        &*self.0 == Self::DEFAULT
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        TenantId(Self::DEFAULT.into())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
