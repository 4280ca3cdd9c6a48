//! The table of examples in the README: a row each, found by the example's name.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::languages::Again;

const BEGIN: &str = "<!-- languages -->";
const END: &str = "<!-- /languages -->";
const HEAD: &str = "| example | language | toolchain | module, KB | fuel | peak memory, KiB | compiling, CPU-s |\n\
     | --- | --- | --- | ---: | ---: | ---: | ---: |\n";

/// The order of the rows.
const ORDER: &[&str] = &[
    "thumbnail",
    "csv-stats",
    "markdown",
    "wordcount",
    "c-chart",
    "zig-frames",
    "assemblyscript-anomalies",
    "typescript-orders",
    "python-report",
    "go-invoice",
    "shout",
];

/// What an example took on its sample.
#[derive(Debug, Default, Clone)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) language: String,
    pub(super) toolchain: String,
    pub(super) bytes: u64,
    pub(super) fuel: u64,
    pub(super) memory_bytes: u64,
    /// Not compared: it is the machine's.
    pub(super) compile_cpu_s: f64,
}

/// A language's name in a text.
pub(super) fn title(language: &str) -> &str {
    match language {
        "c" => "C",
        "zig" => "Zig",
        "assemblyscript" => "AssemblyScript",
        "typescript" => "TypeScript",
        "python" => "Python",
        "go" => "Go",
        other => other,
    }
}

/// Whether rows are written.
pub(super) fn writes() -> bool {
    std::env::var_os("WASMQTT_LANGUAGES").is_some_and(|wish| wish == "write")
}

/// What the children of this process that have ended used, in CPU seconds.
pub(super) fn cpu_of_children() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may have anything in it: state is field 3, cutime 16, cstime 17, in hundredths.
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    let used = fields.split(' ').skip(13).take(2);
    used.filter_map(|it| it.parse::<f64>().ok()).sum::<f64>() / 100.0
}

impl Row {
    /// Writes the row, when rows are written, else compares it with the one that is there.
    pub(super) fn write_or_compare(&self, again: Again) {
        println!("{}", self.text());
        match writes() {
            true => self.write(),
            false => self.compare(again),
        }
    }

    fn text(&self) -> String {
        format!(
            "| [{name}](examples/{name}) | {} | {} | {} | {} | {} | {:.1} |",
            self.language,
            self.toolchain,
            grouped(self.bytes.div_ceil(1000)),
            grouped(self.fuel),
            grouped(self.memory_bytes / 1024),
            self.compile_cpu_s,
            name = self.name,
        )
    }

    fn write(&self) {
        static FILE: Mutex<()> = Mutex::new(());
        let _whole = FILE.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, table, after) = read();
        let row_of = |name: &&str| match *name == self.name {
            true => Some(self.text()),
            false => line(&table, name).map(str::to_owned),
        };
        let rows: Vec<String> = ORDER.iter().filter_map(row_of).collect();
        assert!(ORDER.contains(&&*self.name), "{} has no place", self.name);
        let table = format!("\n\n{HEAD}{}\n\n", rows.join("\n"));
        fs::write(readme(), format!("{before}{BEGIN}{table}{END}{after}")).expect("README.md");
    }

    fn compare(&self, again: Again) {
        let (_, table, _) = read();
        let row = line(&table, &self.name)
            .unwrap_or_else(|| panic!("{}: no row in the README; measure it anew", self.name));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let number = |at: usize| {
            cells
                .get(at)
                .and_then(|cell| cell.replace(',', "").parse().ok())
        };
        let same = |found: u64, at: usize, again: Again| {
            let Some(written): Option<u64> = number(at) else {
                return false;
            };
            match again {
                Again::Same => found == written,
                // Rounded to the unit of the table, so one more.
                Again::Alike => found.abs_diff(written) <= written / 10 + 1,
            }
        };
        assert!(
            cells.get(2) == Some(&&*self.language)
                && cells.get(3) == Some(&&*self.toolchain)
                // A path of this machine may be in it.
                && same(self.bytes.div_ceil(1000), 4, Again::Alike)
                && same(self.fuel, 5, again)
                && same(self.memory_bytes / 1024, 6, again),
            "the README's row is not what was measured; measure it anew\nthere: {row}\nfound: {}",
            self.text()
        );
    }
}

/// What is before the table, the table, what is behind it.
fn read() -> (String, String, String) {
    let text = fs::read_to_string(readme()).expect("README.md");
    let (before, rest) = text.split_once(BEGIN).expect("the table's beginning");
    let (table, after) = rest.split_once(END).expect("the table's end");
    (before.to_owned(), table.to_owned(), after.to_owned())
}

fn readme() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))
}

fn line<'a>(table: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("| [{name}](");
    table.lines().find(|line| line.starts_with(&begin))
}

/// 1,234,567
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
