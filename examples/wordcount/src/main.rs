//! Text on stdin, its words and how often each occurs on stdout, the most frequent first. It knows nothing of
//! wasmqtt: a plain command, for any WASI runtime or none.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::{Read, Write as _};

fn main() -> std::io::Result<()> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let text = String::from_utf8_lossy(&input);
    // On wasmqtt stderr is the task's log.
    eprintln!("{} bytes of text", text.len());
    std::io::stdout().write_all(table(&text).as_bytes())
}

/// A line for each word: how often, a tab, the word in lower case. Equally frequent words are in alphabetical
/// order, so that the same text makes the same table.
fn table(text: &str) -> String {
    let mut counts: HashMap<String, u64> = HashMap::new();
    for word in text.split(|letter: char| !letter.is_alphanumeric() && letter != '\'') {
        let word = word.trim_matches('\'');
        if !word.is_empty() {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(a, times_a), (b, times_b)| times_b.cmp(times_a).then_with(|| a.cmp(b)));

    let mut table = String::new();
    for (word, times) in counts {
        let _ = writeln!(table, "{times}\t{word}");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_counts_as_expected() {
        assert_eq!(
            table(include_str!("../input.txt")),
            include_str!("../expected.txt")
        );
    }

    #[test]
    fn words_are_letters_digits_and_inner_apostrophes() {
        assert_eq!(
            table("Don't 'quote' don't, R2D2!"),
            "2\tdon't\n1\tquote\n1\tr2d2\n"
        );
    }
}
