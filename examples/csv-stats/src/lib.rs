//! CSV in, JSON out: for every column how many values it has, and for a column of numbers what they are like.
//!
//! One pass, with a few numbers for each column: the input may be far longer than what is kept. Only the set
//! of distinct texts grows with the data.

use std::collections::HashSet;

use serde::Serialize;
use wasmqtt_guest::{Context, Error, Json, debug, task};

task!(run);

/// The answer.
#[derive(Debug, Serialize)]
struct Stats {
    rows: u64,
    columns: Vec<Column>,
}

#[derive(Debug, Serialize)]
struct Column {
    name: String,
    /// Rows with a value in this column.
    count: u64,
    /// Rows without one.
    missing: u64,
    #[serde(flatten)]
    values: Values,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Values {
    /// Every value is a number.
    Number {
        min: f64,
        max: f64,
        mean: f64,
        stddev: f64,
    },
    Text {
        distinct: usize,
        longest: usize,
    },
    Empty,
}

/// `stddev` is that of the sample (divided by n - 1).
fn run(_ctx: &Context, input: Vec<u8>) -> Result<Json<Stats>, Error> {
    let mut reader = csv::Reader::from_reader(input.as_slice());
    let mut columns: Vec<Running> = Vec::new();
    for name in reader.headers().map_err(Error::reject)? {
        columns.push(Running {
            name: name.to_owned(),
            ..Running::default()
        });
    }
    let mut rows = 0;
    for record in reader.records() {
        // A row with too many or too few fields is the input's fault; the message has its line.
        let record = record.map_err(Error::reject)?;
        rows += 1;
        for (column, value) in columns.iter_mut().zip(&record) {
            column.add(value.trim());
        }
    }
    debug!("{rows} rows of {} columns", columns.len());
    Ok(Json(Stats {
        rows,
        columns: columns
            .into_iter()
            .map(|column| column.finish(rows))
            .collect(),
    }))
}

/// A column while it is read.
#[derive(Default)]
struct Running {
    name: String,
    count: u64,
    numbers: u64,
    min: f64,
    max: f64,
    mean: f64,
    /// The sum of squares of differences from the mean (Welford's algorithm): stable where the sum of squares
    /// is not.
    m2: f64,
    texts: HashSet<String>,
}

impl Running {
    fn add(&mut self, value: &str) {
        if value.is_empty() {
            return;
        }
        self.count += 1;
        match value.parse::<f64>() {
            Ok(number) if number.is_finite() => self.add_number(number),
            _ => {}
        }
        // Kept for a column that turns out to be text after all.
        if !self.texts.contains(value) {
            self.texts.insert(value.to_owned());
        }
    }

    fn add_number(&mut self, number: f64) {
        self.numbers += 1;
        if self.numbers == 1 {
            (self.min, self.max) = (number, number);
        }
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        let delta = number - self.mean;
        self.mean += delta / self.numbers as f64;
        self.m2 += delta * (number - self.mean);
    }

    fn finish(self, rows: u64) -> Column {
        let values = if self.count == 0 {
            Values::Empty
        } else if self.numbers == self.count {
            let freedom = self.numbers.saturating_sub(1).max(1);
            let stddev = (self.m2 / freedom as f64).sqrt();
            Values::Number {
                min: self.min,
                max: self.max,
                mean: self.mean,
                stddev,
            }
        } else {
            let longest = self
                .texts
                .iter()
                .map(|text| text.chars().count())
                .max()
                .unwrap_or(0);
            Values::Text {
                distinct: self.texts.len(),
                longest,
            }
        };
        Column {
            name: self.name,
            count: self.count,
            missing: rows - self.count,
            values,
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmqtt_guest::IntoOutput;

    use super::*;

    fn stats(input: &str) -> Result<String, Error> {
        let output = run(&Context::default(), input.into())?.into_output()?;
        Ok(String::from_utf8(output.data)?)
    }

    #[test]
    fn the_sample_has_the_expected_statistics() {
        let expected = include_str!("../expected.json");
        assert_eq!(stats(include_str!("../input.csv")), Ok(expected.to_owned()));
    }

    #[test]
    fn one_word_makes_a_column_text() {
        let expected = r#"{"rows":2,"columns":[{"name":"a","count":2,"missing":0,"type":"text","distinct":2,"longest":3}]}"#;
        assert_eq!(stats("a\n1\nn/a\n"), Ok(expected.to_owned()));
    }

    #[test]
    fn a_ragged_row_is_rejected_with_its_line() {
        let Err(Error::Reject(message)) = stats("a,b\n1,2\n3\n") else {
            panic!("the row is ragged")
        };
        assert!(message.contains("line: 3"), "{message}");
    }
}
