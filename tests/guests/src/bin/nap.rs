//! Sleeps for as many milliseconds as the decimal number in its input says, then answers `done`: a task that takes its
//! time without taking the processor. For load tests.

use std::time::Duration;

fn main() {
    let mut input = String::new();
    std::io::stdin().read_line(&mut input).expect("an input");
    let milliseconds = input.trim().parse().expect("a number");
    std::thread::sleep(Duration::from_millis(milliseconds));
    print!("done");
}
