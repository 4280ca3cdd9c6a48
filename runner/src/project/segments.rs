//! A core module with few data segments instead of very many.
//!
//! Go's linker leaves out runs of zeros as short as 17 bytes: 27,000 segments for a program that says hello, where a runner
//! takes 10,000 (each costs a compiler more, the more there are). With the zeros in them they are a few dozen.

use std::ops::Range;

use anyhow::Result;
use wasmparser::{DataKind, DataSectionReader, Operator, Parser, Payload};

/// Segments that lie no farther apart are made one.
const GAP: u64 = 64;

/// A section's number in a core module.
const DATA: u8 = 11;

/// The module with its segments joined; as it is, where that might change what it does.
///
/// # Errors
///
/// When it is no module.
pub(super) fn joined(module: Vec<u8>) -> Result<Vec<u8>> {
    let joined = with_few(&module)?;
    Ok(joined.unwrap_or(module))
}

fn with_few(module: &[u8]) -> Result<Option<Vec<u8>>> {
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            // Segments that the code names by their numbers.
            Payload::DataCountSection { .. } => return Ok(None),
            Payload::DataSection(reader) => {
                let section = reader.range();
                let segments = segments(reader)?;
                return Ok(segments.map(|it| replaced(module, section, &contents(it))));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Where it begins in memory, and its bytes.
type Segment<'a> = (u64, &'a [u8]);

/// The segments, in the order of their places. None when one is not at a fixed place of
/// the first memory, or two overlap: then their order counts.
fn segments(reader: DataSectionReader<'_>) -> Result<Option<Vec<Segment<'_>>>> {
    let mut segments = Vec::new();
    for segment in reader {
        let segment = segment?;
        let DataKind::Active {
            memory_index: 0,
            offset_expr,
        } = segment.kind
        else {
            return Ok(None);
        };
        let mut offset = offset_expr.get_operators_reader();
        let (Operator::I32Const { value }, Operator::End) = (offset.read()?, offset.read()?) else {
            return Ok(None);
        };
        segments.push((u64::from(value.cast_unsigned()), segment.data));
    }
    segments.sort_unstable_by_key(|(at, _)| *at);
    let apart = segments
        .windows(2)
        .all(|pair| matches!(pair, [(at, data), (next, _)] if at + data.len() as u64 <= *next));
    Ok(apart.then_some(segments))
}

/// What a data section of the joined segments has in it.
fn contents(segments: Vec<Segment<'_>>) -> Vec<u8> {
    let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
    for (at, data) in segments {
        if let Some((begin, bytes)) = joined.last_mut() {
            let gap = at - (*begin + bytes.len() as u64);
            if gap <= GAP {
                bytes.extend((0..gap).map(|_| 0));
                bytes.extend_from_slice(data);
                continue;
            }
        }
        joined.push((at, data.to_vec()));
    }
    let mut contents = Vec::new();
    unsigned(&mut contents, joined.len() as u64);
    for (at, bytes) in joined {
        // Active, in the first memory; i32.const, end.
        contents.extend([0x00, 0x41]);
        signed(&mut contents, at);
        contents.push(0x0b);
        unsigned(&mut contents, bytes.len() as u64);
        contents.extend(bytes);
    }
    contents
}

/// The module with other contents of the data section, which are at `old`.
fn replaced(module: &[u8], old: Range<usize>, contents: &[u8]) -> Vec<u8> {
    // Before them are the section's number and its length, in as many bytes as the linker liked.
    let before = module.get(..old.start).unwrap_or_default();
    let length = before
        .iter()
        .rev()
        .skip(1)
        .take_while(|byte| **byte & 0x80 != 0);
    let header = 2 + length.count();
    let mut out = before
        .get(..before.len().saturating_sub(header))
        .unwrap_or_default()
        .to_vec();
    out.push(DATA);
    unsigned(&mut out, contents.len() as u64);
    out.extend_from_slice(contents);
    out.extend_from_slice(module.get(old.end..).unwrap_or_default());
    out
}

/// LEB128.
fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A place in memory as LEB128 with a sign: places from 2 GiB on are negative.
fn signed(out: &mut Vec<u8>, place: u64) {
    let mut value = i64::from((place as u32).cast_signed());
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        let done = value == if byte & 0x40 == 0 { 0 } else { -1 };
        out.push(if done { byte } else { byte | 0x80 });
        if done {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the module's memory begins with, by its segments.
    fn memory(module: &[u8]) -> (usize, Vec<u8>) {
        for payload in Parser::new(0).parse_all(module) {
            if let Payload::DataSection(reader) = payload.expect("a module") {
                let segments = segments(reader).expect("segments").expect("apart");
                let mut memory = vec![0; 70_000];
                for (at, data) in &segments {
                    let at = *at as usize;
                    memory[at..at + data.len()].copy_from_slice(data);
                }
                return (segments.len(), memory);
            }
        }
        panic!("no data")
    }

    fn module(data: &str) -> Vec<u8> {
        wat::parse_str(format!("(module (memory 2) (func) {data})")).expect("text")
    }

    #[test]
    fn what_is_near_is_joined() {
        let before = module(
            "(data (i32.const 65000) \"far\") (data (i32.const 100) \"a\\00b\") \
             (data (i32.const 120) \"c\") (data (i32.const 184) \"d\") (data (i32.const 250) \"e\") \
             (data (i32.const 251) \"f\")",
        );
        let after = joined(before.clone()).expect("a module");
        wasmparser::validate(&after).expect("valid");
        let ((six, was), (few, is)) = (memory(&before), memory(&after));
        assert_eq!((six, few), (6, 3));
        assert!(was == is);
    }

    #[test]
    fn what_may_not_be_joined_is_left_alone() {
        for data in [
            "",
            "(data (i32.const 5) \"ab\") (data (i32.const 6) \"c\")",
            "(data (i32.const 5) \"ab\") (data \"passive\")",
            "(global i32 (i32.const 3)) (data (offset (global.get 0)) \"ab\")",
        ] {
            let before = module(data);
            assert!(
                joined(before.clone()).expect("a module") == before,
                "{data}"
            );
        }
    }
}
