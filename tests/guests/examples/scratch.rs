//! Does with files what the lines of its input say, and answers a line for each: `write PATH BYTES`, `append PATH BYTES`,
//! `sparse PATH AT`, `grow PATH BYTES`, `read PATH`, `delete PATH`, `folder PATH`, `list PATH`, `link PATH PATH`,
//! `symlink PATH PATH`, `files N`.

use std::fs::{self, File, OpenOptions};
use std::io::{Result, Seek as _, SeekFrom, Write as _};

use wasmqtt_guest::{Context, Error, task};

task!(run);

fn run(_ctx: &Context, input: String) -> std::result::Result<String, Error> {
    let lines = input.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        act(&words).unwrap_or_else(|error| format!("error: {}", error.kind()))
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn act(words: &[&str]) -> Result<String> {
    let number = |text: &str| text.parse().unwrap_or(0);
    match words {
        ["write", path, bytes] => fs::write(path, vec![b'x'; number(bytes)])?,
        ["append", path, bytes] => {
            let mut file = OpenOptions::new().append(true).create(true).open(path)?;
            file.write_all(&vec![b'y'; number(bytes)])?;
        }
        ["sparse", path, at] => {
            let mut file = File::create(path)?;
            file.seek(SeekFrom::Start(number(at) as u64))?;
            file.write_all(b"z")?;
        }
        ["grow", path, bytes] => {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            file.set_len(number(bytes) as u64)?;
        }
        ["read", path] => return Ok(format!("{} bytes", fs::read(path)?.len())),
        ["delete", path] => fs::remove_file(path)?,
        ["folder", path] => fs::create_dir(path)?,
        ["list", path] => return Ok(format!("{} entries", fs::read_dir(path)?.count())),
        ["link", from, to] => fs::hard_link(from, to)?,
        ["symlink", from, to] => symlink(from, to)?,
        ["files", count] => {
            for made in 0..number(count) {
                if let Err(error) = File::create(format!("/scratch/file-{made}")) {
                    return Ok(format!("{made} made, then {}", error.kind()));
                }
            }
        }
        _ => return Ok("what?".to_owned()),
    }
    Ok("done".to_owned())
}

fn symlink(from: &str, to: &str) -> Result<()> {
    let preopens = wasip2::filesystem::preopens::get_directories();
    let (folder, _) = preopens.first().ok_or(std::io::ErrorKind::NotFound)?;
    let made = folder.symlink_at(from, to);
    made.map_err(|_| std::io::ErrorKind::PermissionDenied.into())
}
