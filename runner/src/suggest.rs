//! The likeliest intention behind a misspelt name.

/// The known name closest to what was written, if one is close enough to be meant.
pub fn closest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let written: String = written.chars().take(64).collect();
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(&written, name), *name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
