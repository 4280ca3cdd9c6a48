//! What changed from one output to the next, for a person. Pure.

use std::time::Duration;

use similar::TextDiff;

/// Lines that are shown at most.
const MOST_LINES: usize = 200;
/// How long the smallest difference may be looked for; then a larger one will do.
const PATIENCE: Duration = Duration::from_millis(500);

/// The lines that are gone (`-`) and new (`+`), between unchanged neighbours; none if the bytes are the same. JSON is
/// compared a field a line.
#[must_use]
pub fn lines(before: &[u8], after: &[u8]) -> Option<String> {
    if before == after {
        return None;
    }
    let (Some(old), Some(new)) = (text(before), text(after)) else {
        return Some(format!(
            "-{} bytes\n+{} bytes, not all the same",
            before.len(),
            after.len()
        ));
    };
    let (old, new) = match (pretty(&old), pretty(&new)) {
        // The same value, written otherwise, is best seen as it was written.
        (Some(a), Some(b)) if a != b => (a, b),
        _ => (old, new),
    };
    let difference = TextDiff::configure()
        .timeout(PATIENCE)
        .diff_lines(&old, &new);
    let mut shown = Vec::new();
    for hunk in difference.unified_diff().context_radius(2).iter_hunks() {
        shown.extend(hunk.to_string().lines().map(str::to_owned));
    }
    if shown.len() > MOST_LINES {
        let more = shown.len() - MOST_LINES;
        shown.truncate(MOST_LINES);
        shown.push(format!("… and {more} lines more"));
    }
    Some(shown.join("\n"))
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn pretty(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    serde_json::to_string_pretty(&value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed() {
        assert_eq!(lines(b"a\nb\n", b"a\nb\n"), None);
        assert_eq!(
            lines(b"a\nb\nc\n", b"a\nB\nc\n").as_deref(),
            Some("@@ -1,3 +1,3 @@\n a\n-b\n+B\n c")
        );
        let json = lines(br#"{"sum":1,"n":2}"#, br#"{"sum":3,"n":2}"#).expect("a difference");
        assert!(json.contains("-  \"sum\": 1\n+  \"sum\": 3"), "{json}");
        let spaces = lines(b"{}", b"{ }").expect("a difference");
        assert!(
            spaces.contains("-{}") && spaces.contains("+{ }"),
            "{spaces}"
        );
        assert_eq!(
            lines(b"\xff", b"ab").as_deref(),
            Some("-1 bytes\n+2 bytes, not all the same")
        );
        let long: String = (0..1000).map(|n| format!("{n}\n")).collect();
        let long = lines(b"", long.as_bytes()).expect("a difference");
        assert!(long.ends_with("lines more"), "{long}");
    }
}
