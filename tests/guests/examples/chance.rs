//! Answers eight random bytes, a map's order, whether its clocks were ever seen between two milliseconds, and what is
//! the difference between the wall clock and the time that the runner named.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use wasip2::clocks::monotonic_clock;
use wasip2::random::random::get_random_bytes;
use wasmqtt_guest::{Context, Error, task};

task!(json run);

fn run(ctx: &Context, _: ()) -> Result<HashMap<&'static str, String>, Error> {
    let order: HashMap<u32, ()> = (0..20).map(|number| (number, ())).collect();
    let fine = (0..1000).any(|_| {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall = wall.unwrap_or_default().subsec_nanos();
        !wall.is_multiple_of(1_000_000) || !monotonic_clock::now().is_multiple_of(1_000_000)
    });
    Ok(HashMap::from([
        ("bytes", format!("{:?}", get_random_bytes(8))),
        ("order", format!("{:?}", order.keys())),
        ("fine", fine.to_string()),
        (
            "right",
            (ctx.time_left() < Duration::from_secs(3600)).to_string(),
        ),
        ("attempt", ctx.attempt.to_string()),
    ]))
}
