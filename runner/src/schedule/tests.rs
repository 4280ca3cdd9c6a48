use proptest::prelude::*;

use super::*;

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

fn drained<T>(mut schedule: Schedule<T>) -> Vec<T> {
    std::iter::from_fn(|| schedule.pop()).collect()
}

#[test]
fn priority_then_arrival_within_a_tenant() {
    let mut schedule = Schedule::default();
    for (priority, item) in [(0, "a"), (9, "b"), (0, "c"), (9, "d")] {
        schedule.push(&tenant("t"), priority, 1, item);
    }
    assert_eq!(drained(schedule), ["b", "d", "a", "c"]);
}

#[test]
fn urgent_tasks_do_not_starve_the_others() {
    let mut schedule = Schedule::default();
    schedule.push(&tenant("t"), 0, 1, None);
    let mut before = 0;
    loop {
        // One more urgent task for each that is taken.
        schedule.push(&tenant("t"), 9, 1, Some(before));
        match schedule.pop() {
            Some(None) => break,
            _ => before += 1,
        }
    }
    assert_eq!(before, 9 * HEAD_START);
}

#[test]
fn tenants_take_turns() {
    let mut schedule = Schedule::default();
    for item in ["a1", "a2", "a3"] {
        schedule.push(&tenant("a"), 9, 1, item);
    }
    schedule.push(&tenant("b"), 0, 1, "b1");
    assert_eq!(drained(schedule), ["a1", "b1", "a2", "a3"]);
}

#[test]
fn the_head_is_waited_for() {
    let mut schedule = Schedule::default();
    schedule.push(&tenant("t"), 0, 100, "large");
    schedule.push(&tenant("t"), 0, 1, "small");
    assert_eq!(schedule.next_memory(), Some(100));
    assert_eq!(schedule.pop(), Some("large"));
    assert_eq!(schedule.next_memory(), Some(1));
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
                    schedule.push(&tenant(&format!("t{name}")), priority, 1, pushed);
                    pushed += 1;
                }
                None => {
                    let waiting = schedule.len();
                    let next = schedule.pop();
                    prop_assert_eq!(next.is_some(), waiting > 0);
                    popped.extend(next);
                }
            }
            prop_assert_eq!(schedule.len() + popped.len(), pushed);
            prop_assert_eq!(schedule.is_empty(), schedule.next_memory().is_none());
        }
        popped.extend(drained(schedule));
        popped.sort_unstable();
        prop_assert_eq!(popped, (0..pushed).collect::<Vec<_>>());
    }

    /// No tenant waits for more than one task of each of the others.
    #[test]
    fn no_tenant_starves(backlog in prop::collection::vec(1..30usize, 1..6)) {
        let mut schedule = Schedule::default();
        for (index, count) in backlog.iter().enumerate() {
            for _ in 0..*count {
                schedule.push(&tenant(&format!("t{index}")), 0, 1, index);
            }
        }
        let first_round: std::collections::BTreeSet<usize> =
            (0..backlog.len()).filter_map(|_| schedule.pop()).collect();
        prop_assert_eq!(first_round.len(), backlog.len());
    }
}
