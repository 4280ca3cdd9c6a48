//! Calls the host for ever: each call is much work for it, and next to none for the guest. Its input says which.

use std::io::Read as _;

use wasip2::cli::stderr::get_stderr;
use wasip2::random::insecure::get_insecure_random_bytes;

const MUCH: u64 = 1 << 20;

fn main() {
    let mut which = String::new();
    let _ = std::io::stdin().read_to_string(&mut which);
    if which == "random" {
        loop {
            get_insecure_random_bytes(MUCH);
        }
    }
    let (stderr, chunk) = (get_stderr(), vec![b'x'; MUCH as usize]);
    loop {
        let _ = stderr.write(&chunk);
    }
}
