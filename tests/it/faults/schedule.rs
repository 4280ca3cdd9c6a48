//! Chance that can be repeated, and how long a run is.

use std::ops::Range;
use std::time::Duration;

/// Repeats the run of that seed.
const SEED: &str = "WASMQTT_FAULTS_SEED";
/// Multiplies the length: 1 is what CI runs, 5 is what the bars of the promises ask for.
const SCALE: &str = "WASMQTT_FAULTS_SCALE";

/// How many times as long as in CI.
pub(crate) fn scale() -> usize {
    number(SCALE).map_or(1, |scale| usize::try_from(scale).expect("a scale"))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")))
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, and any seed will do.
#[derive(Debug)]
pub(crate) struct Chance {
    pub(crate) seed: u64,
    state: u64,
}

impl Chance {
    /// With the seed that is asked for, else with a new one.
    pub(crate) fn new() -> Chance {
        let since_1970 = std::time::SystemTime::UNIX_EPOCH.elapsed();
        let clock = since_1970.map_or(0, |elapsed| elapsed.subsec_nanos());
        Chance::of(number(SEED).unwrap_or_else(|| u64::from(clock)))
    }

    fn of(seed: u64) -> Chance {
        Chance { seed, state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the range, which is not empty.
    pub(crate) fn among(&mut self, range: Range<usize>) -> usize {
        let width = u64::try_from(range.len()).expect("64 bits");
        range.start + usize::try_from(self.next() % width).expect("below a usize")
    }

    /// A time in the range, in milliseconds.
    pub(crate) fn time(&mut self, milliseconds: Range<usize>) -> Duration {
        let milliseconds = self.among(milliseconds);
        Duration::from_millis(u64::try_from(milliseconds).expect("64 bits"))
    }
}
