//! The example tasks, built from source by `build.rs`, each with a sample input and what becomes of it.
//!
//! What it owns: the list that the demo runs, from the folders beside it. It must not know how a task is run.

/// A task that somebody might run, or one that a runner has to stop.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    /// The module's name, which is that of its folder.
    pub name: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// The component.
    pub wasm: &'static [u8],
    /// A sample input.
    pub input: &'static [u8],
    /// The media type of `input`.
    pub content_type: &'static str,
    /// What becomes of `input`.
    pub expect: Expect,
}

/// How a task on the sample input ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The output is exactly these bytes.
    Output(&'static [u8]),
    /// The output is a PNG of this size, in pixels.
    Png {
        /// Pixels from left to right.
        width: u32,
        /// Pixels from top to bottom.
        height: u32,
    },
    /// It fails with this `error.code`.
    Error(&'static str),
}

macro_rules! guest {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm"))
    };
}

/// Answers its input, with its media type: the no-op, for benchmarks.
pub const ECHO: &[u8] = guest!("echo");

/// Every example, the useful ones first.
pub const ALL: &[Example] = &[
    Example {
        name: "thumbnail",
        about: "photo in, small PNG out",
        wasm: guest!("thumbnail"),
        input: include_bytes!("../thumbnail/input.jpg"),
        content_type: "image/jpeg",
        expect: Expect::Png {
            width: 128,
            height: 96,
        },
    },
    Example {
        name: "csv-stats",
        about: "CSV in, statistics of its columns out",
        wasm: guest!("csv_stats"),
        input: include_bytes!("../csv-stats/input.csv"),
        content_type: "text/csv",
        expect: Expect::Output(include_bytes!("../csv-stats/expected.json")),
    },
    Example {
        name: "markdown",
        about: "Markdown in, HTML out",
        wasm: guest!("markdown"),
        input: include_bytes!("../markdown/input.md"),
        content_type: "text/markdown",
        expect: Expect::Output(include_bytes!("../markdown/expected.html")),
    },
    Example {
        name: "wordcount",
        about: "word frequencies, a plain WASI command",
        wasm: guest!("wordcount"),
        input: include_bytes!("../wordcount/input.txt"),
        content_type: "text/plain",
        expect: Expect::Output(include_bytes!("../wordcount/expected.txt")),
    },
    Example {
        name: "shout",
        about: "upper case, hand-written WebAssembly",
        wasm: guest!("shout"),
        input: include_bytes!("../shout/input.txt"),
        content_type: "text/plain",
        expect: Expect::Output(include_bytes!("../shout/expected.txt")),
    },
    Example {
        name: "endless",
        about: "loops for ever: stopped by its fuel",
        wasm: guest!("endless"),
        input: b"",
        content_type: "text/plain",
        expect: Expect::Error("fuel_exhausted"),
    },
    Example {
        name: "greedy",
        about: "takes ever more memory: stopped by its limit",
        wasm: guest!("greedy"),
        input: b"",
        content_type: "text/plain",
        expect: Expect::Error("memory_exceeded"),
    },
];
