//! A fault harness in the manner of Jepsen: a load, faults under it, and a checker that says what became of every task
//! that the broker took over.
//!
//! Here are the trials on the embedded broker, and the bodies of those that run on mosquitto too.

mod broker;
mod checker;
mod clock;
pub(crate) mod cluster;
mod consumer;
mod disk;
mod fleet;
mod ground;
mod load;
mod run;
mod schedule;
mod strike;
pub(crate) mod submitter;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{sleep, timeout};

pub(crate) use self::broker::Kind;
use self::checker::{Heard, Submitted, Verdict, check};
use self::clock::Clocks;
use self::disk::Disk;
use self::fleet::Setup;
use self::ground::has_slots;
pub(crate) use self::load::Load;
pub(crate) use self::run::{Report, Run};
pub(crate) use self::schedule::{Chance, scale};
pub(crate) use self::strike::{Fault, strike};
pub(crate) use self::witness::Seen;
use crate::batch::until;
use crate::rig::PATIENCE;

/// In short form the runs are about as long as CI bears; five times that is what is promised.
fn tasks() -> usize {
    400 * scale()
}

/// Strikes as long as tasks are submitted.
pub(crate) async fn under(
    name: &'static str,
    kind: Kind,
    load: Load,
    fault: Fault,
    every: Duration,
) -> Report {
    let mut run = Run::new(name, kind).await;
    run.load(load);
    while !run.is_submitted().await {
        sleep(every).await;
        strike(&mut run, fault).await;
    }
    run.finish().await
}

/// Strikes so many times under a load that goes on until then.
pub(crate) async fn times(
    count: usize,
    name: &'static str,
    kind: Kind,
    load: Load,
    fault: Fault,
) -> Report {
    let mut run = Run::new(name, kind).await;
    run.load(load);
    run.answered(20).await;
    for _ in 0..count {
        strike(&mut run, fault).await;
        sleep(run.chance.time(100..500)).await;
    }
    run.finish().await
}

/// A random one of three runners every three seconds, in short form every second.
pub(crate) async fn killed_runners_on(name: &'static str, kind: Kind) {
    let every = Duration::from_secs(u64::try_from(scale().min(3)).expect("three"));
    let report = under(name, kind, Load::of(tasks()), Fault::RunnerKilled, every).await;
    report.is_whole();
}

pub(crate) async fn killed_runners() {
    killed_runners_on("killed runners", Kind::Embedded).await;
}

/// Three runners one after the other again and again: 100 times in long form.
pub(crate) async fn rolling_restarts_on(name: &'static str, kind: Kind) {
    let mut run = Run::new(name, kind).await;
    run.load(Load::endless());
    for restart in 0..20 * scale() {
        let next = restart % run.fleet.count();
        run.fleet.terminate(next).await;
        run.fleet.run(next).await;
    }
    run.finish().await.is_whole();
}

pub(crate) async fn rolling_restarts() {
    rolling_restarts_on("rolling restarts", Kind::Embedded).await;
}

/// It comes back with tasks in its hands that others have got meanwhile.
pub(crate) async fn a_stopped_runner_on(name: &'static str, kind: Kind) {
    // Bounded: mosquitto goes on giving the stopped one its share, which it must work off alone.
    let load = Load::of(tasks());
    let report = times(scale(), name, kind, load, Fault::RunnerStopped).await;
    report.is_whole();
}

pub(crate) async fn a_stopped_runner() {
    a_stopped_runner_on("stopped runner", Kind::Embedded).await;
}

pub(crate) async fn killed_submitters() {
    let count = 10 * scale();
    let (load, fault) = (Load::endless(), Fault::SubmitterKilled);
    let report = times(count, "killed submitters", Kind::Embedded, load, fault).await;
    report.is_whole();
}

async fn links(name: &'static str, fault: Fault, every: Duration) {
    let load = Load::of(tasks());
    under(name, Kind::Embedded, load, fault, every)
        .await
        .is_whole();
}

pub(crate) async fn links_cut() {
    links("links cut", Fault::LinkCut, Duration::from_millis(300)).await;
}

/// The runners tell each other what has ended. What runs twice at the same time still ends twice.
pub(crate) async fn links_cut_with_dedupe_in_the_group() {
    let name = "links cut, dedupe in the group";
    if !has_slots() {
        println!("{name}: left out, `serve` has no journal");
        return;
    }
    let setup = Setup {
        wrap: Box::new(|_, mut command| {
            command.env("WASMQTT_JOURNAL_DEDUPE", "group");
            command
        }),
        ..Setup::default()
    };
    let mut run = Run::with(name, Kind::Embedded, setup).await;
    run.load(Load::of(tasks()));
    while !run.is_submitted().await {
        sleep(Duration::from_millis(300)).await;
        strike(&mut run, Fault::LinkCut).await;
    }
    run.finish().await.is_whole();
}

pub(crate) async fn links_half_closed() {
    let every = Duration::from_millis(500);
    links("links half-closed", Fault::LinkHalfClosed, every).await;
}

pub(crate) async fn links_cut_in_a_packet() {
    let every = Duration::from_millis(300);
    links("links cut in a packet", Fault::LinkCutInAPacket, every).await;
}

pub(crate) async fn slow_links() {
    links("slow links", Fault::LinkSlow, Duration::from_millis(100)).await;
}

pub(crate) async fn a_partition() {
    let fault = Fault::Partition;
    let load = Load::endless();
    let report = times(scale(), "partition", Kind::Embedded, load, fault).await;
    report.is_whole();
}

/// The link is cut when the runner has published the outcome and before it knows that the broker has it; session and
/// everything else are gone when the broker is back.
pub(crate) async fn cut_before_the_puback(name: &'static str, kind: Kind, at: Seen) {
    let setup = Setup {
        runners: 1,
        ..Setup::default()
    };
    let mut run = Run::with(name, kind, setup).await;
    run.witness.shut_at(at);
    run.load(Load::of(1));
    until("the link is cut", || run.witness.has_shut()).await;
    run.broker.stop().await;
    run.consumer.is_away().await;
    run.broker.run().await;
    // It is not the runner's part that somebody listens.
    run.consumer.is_back().await;
    run.fleet.link(0).shut(false);
    // The next task only when there is a runner again: mosquitto would refuse it.
    let stored = || run.witness.seen("echo-0-0") == Seen::Stored;
    until("the outcome is taken over", stored).await;
    run.answered(1).await;
    run.add(1).await;
    run.answered(2).await;
    let ids = run.witness.packet_ids();
    run.finish().await.is_whole();
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert_eq!(ids[0], ids[1], "the next task has the same packet id");
}

pub(crate) async fn cut_before_the_outcome_arrives() {
    let name = "link cut before the outcome's arrival";
    cut_before_the_puback(name, Kind::Embedded, Seen::Published).await;
}

pub(crate) async fn cut_before_the_outcomes_puback() {
    let name = "link cut before the outcome's PUBACK";
    cut_before_the_puback(name, Kind::Embedded, Seen::Stored).await;
}

/// The wall clocks of the runners jump by up to two hours, each by itself.
pub(crate) async fn clock_jumps() {
    const SECONDS: usize = 7200;
    let clocks = Clocks::new(3).await;
    let setup = Setup {
        wrap: clocks.wrap(),
        ..Setup::default()
    };
    let mut run = Run::with("clock jumps", Kind::Embedded, setup).await;
    run.load(Load::of(tasks()));
    while !run.is_submitted().await {
        let runner = run.chance.among(0..run.fleet.count());
        let seconds = i64::try_from(run.chance.among(0..2 * SECONDS)).expect("hours");
        clocks.set(runner, seconds - 7200);
        sleep(Duration::from_millis(200)).await;
    }
    let hours: BTreeSet<String> = {
        let heard = run.consumer.record();
        let hour = |outcome: &Heard| {
            outcome
                .started_at
                .chars()
                .take("2026-11-22T19".len())
                .collect()
        };
        heard.outcomes.iter().map(hour).collect()
    };
    run.finish().await.is_whole();
    assert!(hours.len() > 2, "the clocks did not jump: {hours:?}");
}

/// The journal cannot be written for a while: that is reported, and nothing is lost.
pub(crate) async fn a_full_disk() {
    let disk = Disk::new();
    let setup = Setup {
        state: Some(disk.path().join("state")),
        wrap: Box::new(|_, command| disk::limitable(&command)),
        ..Setup::default()
    };
    let mut run = Run::with("full disk", Kind::Embedded, setup).await;
    run.load(Load::of(tasks()));
    // By then every runner has loaded every module: a limit on files is one on the images of modules too.
    run.answered(tasks() / 2).await;
    let processes: Vec<u32> = (0..run.fleet.count())
        .map(|number| run.fleet.process(number))
        .collect();
    disk.fill(&processes);
    let reported = async {
        while has_slots() && !(0..run.fleet.count()).all(|number| complains(&run.fleet.log(number)))
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let reported = timeout(PATIENCE, reported).await;
    sleep(Duration::from_secs(1)).await;
    disk.free(&processes);
    assert!(reported.is_ok(), "nobody says that the journal is broken");
    run.submitted().await;
    run.finish().await.is_whole();
}

/// Whether a log has a warning of the journal.
fn complains(log: &str) -> bool {
    log.lines()
        .any(|line| (line.contains(" WARN ") || line.contains("ERROR")) && line.contains("journal"))
}

/// A checker that cannot fail would be worse than none.
pub(crate) async fn the_checker_tells() {
    let submitted = |ids: &[(&str, Submitted)]| -> BTreeMap<String, Submitted> {
        let owned = |(id, submitted): &(&str, Submitted)| ((*id).to_owned(), *submitted);
        ids.iter().map(owned).collect()
    };
    let heard = |id: &str, status: &str, answer: &str, run: &str| Heard {
        id: id.to_owned(),
        status: status.to_owned(),
        answer: answer.to_owned(),
        runner: run.to_owned(),
        started_at: String::new(),
    };
    let one = submitted(&[("a", Submitted::Acknowledged)]);
    let judge = |heard: &[Heard]| check(&one, heard, |_| "done".to_owned());
    let well = heard("a", "succeeded", "done", "r1");

    let verdict = judge(std::slice::from_ref(&well));
    assert!(verdict.is_whole() && verdict.all_succeeded(), "{verdict}");
    assert_eq!(verdict.ended["a"], "succeeded");

    let verdict = judge(&[]);
    assert_eq!(verdict.lost.iter().collect::<Vec<_>>(), ["a"]);
    assert!(!verdict.is_whole() && verdict.is_consistent());

    let twice = judge(&[well.clone(), well.clone()]);
    assert_eq!((twice.duplicated(), twice.ran_again), (1, 0));
    assert!(twice.is_whole(), "sent twice is not wrong");
    let again = judge(&[well.clone(), heard("a", "succeeded", "done", "r2")]);
    assert_eq!((again.duplicated(), again.ran_again), (1, 1));

    for other in [
        heard("a", "failed", "trap", "r2"),
        heard("a", "failed", "done", "r1"),
        heard("a", "succeeded", "don", "r1"),
    ] {
        let verdict = judge(&[well.clone(), other]);
        assert_eq!(verdict.conflicting.len(), 1, "{verdict}");
        assert!(!verdict.is_whole() && verdict.lost.is_empty() && verdict.ended.is_empty());
    }

    let verdict = judge(&[heard("a", "succeeded", "", "r1")]);
    assert_eq!(verdict.details(), "  wrong: a: \"\"\n");
    assert!(!verdict.is_whole());
    let verdict = judge(&[heard("a", "failed", "trap", "r1")]);
    assert!(verdict.is_whole() && !verdict.all_succeeded());
    for stranger in [
        heard("b", "succeeded", "done", "r1"),
        heard("a", "started", "", "r1"),
        heard("", "", "", ""),
    ] {
        let verdict = judge(&[well.clone(), stranger]);
        assert_eq!(verdict.unexpected.len(), 1, "{verdict}");
        assert!(!verdict.is_whole());
    }

    // What no PUBACK came for may run or not, but once.
    let tried = submitted(&[("a", Submitted::Tried)]);
    let judge = |heard: &[Heard]| check(&tried, heard, |_| "done".to_owned());
    assert_eq!(judge(&[]), Verdict::default());
    assert!(judge(std::slice::from_ref(&well)).is_whole());
    let verdict = judge(&[well, heard("a", "expired", "", "r2")]);
    assert_eq!(verdict.conflicting.len(), 1);
}
