//! Waits in the host for an hour: no fuel is burnt and no epoch is noticed, only an outer timeout helps.

fn main() {
    std::thread::sleep(std::time::Duration::from_secs(3600));
    println!("done");
}
