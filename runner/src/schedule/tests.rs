use proptest::prelude::*;

use super::*;

const ALL: Room = Room {
    slots: usize::MAX,
    reserved: 0,
    memory_bytes: u64::MAX,
};

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

fn share(weight: u32) -> Share {
    Share {
        weight,
        slots: usize::MAX,
    }
}

fn push<T>(schedule: &mut Schedule<T>, name: &str, priority: u8, item: T) {
    schedule.push(&tenant(name), share(1), priority, 1, item);
}

/// What comes when each task ends, having burnt 10 units, before the next is taken.
fn drained<T>(mut schedule: Schedule<T>) -> Vec<T> {
    std::iter::from_fn(|| take(&mut schedule, 10)).collect()
}

fn take<T>(schedule: &mut Schedule<T>, fuel: u64) -> Option<T> {
    let turn = schedule.pop(ALL, |_| true)?;
    schedule.done(&turn.tenant, turn.charged, Some(fuel));
    Some(turn.item)
}

#[test]
fn priority_then_arrival_within_a_tenant() {
    let mut schedule = Schedule::default();
    for (priority, item) in [(0, "a"), (9, "b"), (0, "c"), (9, "d")] {
        push(&mut schedule, "t", priority, item);
    }
    assert_eq!(drained(schedule), ["b", "d", "a", "c"]);
}

#[test]
fn urgent_tasks_do_not_starve_the_others() {
    let mut schedule = Schedule::default();
    push(&mut schedule, "t", 0, None);
    let mut before = 0;
    loop {
        // One more urgent task for each that is taken.
        push(&mut schedule, "t", 9, Some(before));
        match take(&mut schedule, 10) {
            Some(None) => break,
            _ => before += 1,
        }
    }
    assert_eq!(before, 9 * HEAD_START);
}

#[test]
fn equal_tenants_take_turns() {
    let mut schedule = Schedule::default();
    for item in ["a1", "a2", "a3"] {
        push(&mut schedule, "a", 9, item);
    }
    push(&mut schedule, "b", 0, "b1");
    assert_eq!(drained(schedule), ["a1", "b1", "a2", "a3"]);
}

#[test]
fn the_head_is_waited_for() {
    let mut schedule = Schedule::default();
    schedule.push(&tenant("t"), share(1), 0, 100, "large");
    schedule.push(&tenant("t"), share(1), 0, 1, "small");
    let room = |memory_bytes| Room {
        memory_bytes,
        ..ALL
    };
    assert!(schedule.pop(room(99), |_| true).is_none());
    let large = schedule.pop(room(100), |_| true).expect("it fits");
    assert_eq!((large.item, large.memory_bytes), ("large", 100));
}

#[test]
fn reserved_slots_are_for_those_of_whom_nothing_runs() {
    let mut schedule = Schedule::default();
    for n in 0..5 {
        push(&mut schedule, "flood", 0, n);
    }
    let room = |slots| Room {
        slots,
        reserved: 2,
        ..ALL
    };
    let mut free = 4;
    while schedule.pop(room(free), |_| true).is_some() {
        free -= 1;
    }
    assert_eq!(free, 2);
    push(&mut schedule, "late", 0, 100);
    let late = schedule.pop(room(free), |_| true).expect("a slot is left");
    assert_eq!(late.item, 100);
}

#[test]
fn slots_of_its_own_and_what_may_not_go() {
    let mut schedule = Schedule::default();
    let one = Share {
        weight: 1,
        slots: 1,
    };
    for item in ["a1", "a2"] {
        schedule.push(&tenant("a"), one, 0, 1, item);
    }
    push(&mut schedule, "b", 0, "b1");
    let first = schedule.pop(ALL, |t| t.as_str() == "a").expect("one slot");
    assert_eq!(first.item, "a1");
    assert!(schedule.pop(ALL, |t| t.as_str() == "a").is_none());
    assert_eq!(schedule.pop(ALL, |_| true).expect("b's").item, "b1");
    schedule.done(&first.tenant, first.charged, None);
    assert_eq!(schedule.pop(ALL, |_| true).expect("free again").item, "a2");
}

/// Serves `steps` tasks of always waiting tenants; the fuel of each.
fn served(weights: &[u32], fuel: &[u64], slots: usize, steps: usize) -> Vec<u64> {
    let mut schedule = Schedule::default();
    let names: Vec<_> = (0..weights.len()).map(|n| format!("t{n}")).collect();
    let mut running = std::collections::VecDeque::new();
    let mut burnt = vec![0; weights.len()];
    for (n, weight) in weights.iter().enumerate() {
        for _ in 0..2 * slots {
            schedule.push(&tenant(&names[n]), share(*weight), 0, 1, n);
        }
    }
    for _ in 0..steps {
        while running.len() < slots {
            let turn = schedule.pop(ALL, |_| true).expect("somebody waits");
            schedule.push(&turn.tenant, share(weights[turn.item]), 0, 1, turn.item);
            running.push_back(turn);
        }
        let turn = running.pop_front().expect("something runs");
        burnt[turn.item] += fuel[turn.item];
        schedule.done(&turn.tenant, turn.charged, Some(fuel[turn.item]));
    }
    burnt
}

proptest! {
    /// Whatever the order of pushes and pops: nothing is lost, nothing comes twice, and as long as something
    /// waits something is given.
    #[test]
    fn keeps_what_it_is_given(steps in prop::collection::vec(prop::option::of((0..4u8, 0..10u8)), 0..200)) {
        let mut schedule = Schedule::default();
        let (mut pushed, mut popped) = (0, Vec::new());
        for step in steps {
            match step {
                Some((name, priority)) => {
                    push(&mut schedule, &format!("t{name}"), priority, pushed);
                    pushed += 1;
                }
                None => {
                    let waiting = schedule.len();
                    let next = take(&mut schedule, 10);
                    prop_assert_eq!(next.is_some(), waiting > 0);
                    popped.extend(next);
                }
            }
            prop_assert_eq!(schedule.len() + popped.len(), pushed);
        }
        popped.extend(drained(schedule));
        popped.sort_unstable();
        prop_assert_eq!(popped, (0..pushed).collect::<Vec<_>>());
    }

    /// However much the others burn: a tenant that comes is served before any of them is served twice more than its
    /// weight says.
    #[test]
    fn nobody_starves(fuel in prop::collection::vec(1..1_000_000_000u64, 1..6), rounds in 1..50usize) {
        let mut schedule = Schedule::default();
        for (n, fuel) in fuel.iter().enumerate() {
            for _ in 0..rounds + 2 {
                push(&mut schedule, &format!("t{n}"), 0, (n, *fuel));
            }
        }
        for _ in 0..rounds {
            let turn = schedule.pop(ALL, |_| true).expect("somebody waits");
            schedule.done(&turn.tenant, turn.charged, Some(turn.item.1));
        }
        push(&mut schedule, "late", 0, (usize::MAX, 1));
        let mut before = vec![0; fuel.len()];
        loop {
            let turn = schedule.pop(ALL, |_| true).expect("somebody waits");
            let (n, fuel) = turn.item;
            schedule.done(&turn.tenant, turn.charged, Some(fuel));
            if n == usize::MAX {
                break;
            }
            before[n] += 1;
            prop_assert!(before[n] <= 2, "tenant {n} was served {} times before", before[n]);
        }
    }

    /// Over a long time each tenant's fuel is within one task (each slot's) of its weight's share.
    #[test]
    fn weights_are_respected(
        tenants in prop::collection::vec((1..8u32, 100_000..50_000_000u64), 2..5),
        slots in 1..9usize,
    ) {
        let (weights, fuel): (Vec<_>, Vec<_>) = tenants.into_iter().unzip();
        let burnt = served(&weights, &fuel, slots, 20_000);
        // What is charged is the fuel and the overhead.
        let charged: Vec<f64> = burnt
            .iter()
            .zip(&fuel)
            .map(|(burnt, fuel)| *burnt as f64 * (1.0 + OVERHEAD as f64 / *fuel as f64))
            .collect();
        let (sum, weight) = (charged.iter().sum::<f64>(), weights.iter().sum::<u32>());
        let quantum = *fuel.iter().max().expect("tenants") as f64 + (OVERHEAD + UNKNOWN) as f64;
        for (n, charged) in charged.iter().enumerate() {
            let due = sum * f64::from(weights[n]) / f64::from(weight);
            let most = quantum * (slots as f64 + 2.0) * f64::from(weights[n] + 1);
            prop_assert!((charged - due).abs() <= most, "tenant {n}: {charged} of {due}, off by more than {most}");
        }
    }
}
