//! Writes to stdout for ever, and does not mind that nobody takes it.

use std::io::Write;

fn main() {
    let chunk = [b'x'; 4096];
    let mut stdout = std::io::stdout();
    loop {
        // A guest that stopped at the first error would hide a host that forgets its limit.
        let _ = stdout.write_all(&chunk);
    }
}
