//! Says why on stderr and exits with code 3, of which WASI 0.2 only hands on that it is not 0.

fn main() {
    eprintln!("nothing to do here");
    std::process::exit(3);
}
