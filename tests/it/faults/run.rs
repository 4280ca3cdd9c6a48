//! One run of a trial: broker, runners, submitter and consumer, a load, and the verdict at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::batch::until;
use crate::faults::broker::{Broker, Kind};
use crate::faults::checker::{self, Verdict};
use crate::faults::consumer::Consumer;
use crate::faults::fleet::{Fleet, Setup};
use crate::faults::ground::Ground;
use crate::faults::load::{Feed, Load, Record};
use crate::faults::schedule::Chance;
use crate::faults::submitter::answer_of;
use crate::faults::witness::{Seen, Witness};
use crate::rig::PATIENCE;

/// Nothing has come for so long: what is missing is lost. Longer than it takes to notice a dead link by its keep-alive, and
/// than the longest wait before another attempt to connect.
const SETTLED: Duration = Duration::from_secs(20);
/// The same for tasks whose outcome the broker has, while the consumer is connected.
const SETTLED_AT_THE_BROKER: Duration = Duration::from_secs(3);
/// Waited for what should not come any more.
const MORE: Duration = Duration::from_millis(500);

pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) chance: Chance,
    pub(crate) broker: Broker,
    pub(crate) fleet: Fleet,
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) witness: Witness,
    submitted: Arc<Mutex<Record>>,
    feed: Option<Arc<tokio::sync::Mutex<Feed>>>,
    feeding: Option<JoinHandle<()>>,
    begun: Instant,
}

/// What came of it.
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    /// Where the lost ones were seen last.
    pub(crate) lost: BTreeMap<Seen, BTreeSet<String>>,
}

impl Run {
    /// On a broker of that kind, without a load yet.
    pub(crate) async fn new(name: &'static str, kind: Kind) -> Run {
        Run::with(name, kind, Setup::default()).await
    }

    /// The same with a say in how the runners are started.
    pub(crate) async fn with(name: &'static str, kind: Kind, setup: Setup) -> Run {
        let chance = Chance::new();
        let ground = Arc::new(Ground::new(setup.state.as_deref()));
        let broker = Broker::start(kind, ground.clone()).await;
        let consumer = Consumer::connect(&broker.url_for_consumer()).await;
        let witness = Witness::default();
        let fleet = Fleet::start(&broker, ground, &witness, setup).await;
        Run {
            name,
            chance,
            broker,
            fleet,
            consumer: Arc::new(consumer),
            witness,
            submitted: Arc::default(),
            feed: None,
            feeding: None,
            begun: Instant::now(),
        }
    }

    /// Starts submitting.
    pub(crate) fn load(&mut self, load: Load) {
        let feed = Feed::start(self.broker.for_submitter(), load, self.submitted.clone());
        let feed = Arc::new(tokio::sync::Mutex::new(feed));
        let (feeding, consumer) = (feed.clone(), self.consumer.clone());
        self.feed = Some(feed);
        self.begun = Instant::now();
        self.feeding = Some(tokio::spawn(async move {
            loop {
                feeding.lock().await.feed(&consumer).await;
                sleep(Duration::from_millis(10)).await;
            }
        }));
    }

    /// Makes the load larger.
    pub(crate) async fn add(&self, tasks: usize) {
        let feed = self.feed.as_ref().expect("a load");
        feed.lock().await.add(tasks);
    }

    /// Whether all of the load was submitted.
    pub(crate) async fn is_submitted(&self) -> bool {
        match &self.feed {
            Some(feed) => feed.lock().await.is_done(),
            None => true,
        }
    }

    /// Waits until all of the load was submitted.
    pub(crate) async fn submitted(&self) {
        let submitted = async {
            while !self.is_submitted().await {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = timeout(PATIENCE, submitted).await;
        assert!(waited.is_ok(), "{}: not submitted in time", self.name);
    }

    /// Waits until so many tasks are acknowledged to the submitter.
    pub(crate) async fn acknowledged(&self, tasks: usize) {
        let acknowledged = || lock(&self.submitted).acknowledged().count() >= tasks;
        until("tasks are acknowledged", acknowledged).await;
    }

    /// Waits until so many tasks have an outcome.
    pub(crate) async fn answered(&self, tasks: usize) {
        let answered = || self.consumer.record().first.len() >= tasks;
        until("tasks are answered", answered).await;
    }

    /// Kills the submitter; another one takes its place.
    pub(crate) async fn kill_submitter(&self) {
        let feed = self.feed.as_ref().expect("a load");
        feed.lock().await.kill().await;
    }

    /// Ends the load, waits for its outcomes, ends everything, and prints the verdict.
    pub(crate) async fn finish(mut self) -> Report {
        let faults_over = Instant::now();
        if let Some(feeding) = self.feeding.take() {
            feeding.abort();
            let _ = feeding.await;
        }
        if let Some(feed) = self.feed.take() {
            let feed = Arc::into_inner(feed).expect("nobody else feeds");
            feed.into_inner().end().await;
        }
        self.consumer.is_back().await;
        self.settle().await;
        sleep(MORE).await;
        self.fleet.end().await;
        sleep(MORE).await;
        let (report, text) = self.report(faults_over);
        print!("{text}");
        self.broker.stop().await;
        report
    }

    /// Waits until every acknowledged task has an outcome, or nothing comes any more.
    async fn settle(&self) {
        let since = Instant::now();
        loop {
            {
                let heard = self.consumer.record();
                let submitted = lock(&self.submitted);
                let furthest_back = submitted
                    .acknowledged()
                    .filter(|id| !heard.first.contains_key(*id))
                    .map(|id| self.witness.seen(id))
                    .min();
                let patience = match furthest_back {
                    None => return,
                    Some(Seen::Stored | Seen::Unsubscribed) => SETTLED_AT_THE_BROKER,
                    Some(_) => SETTLED,
                };
                if since.max(heard.last).elapsed() > patience {
                    return;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The verdict, and its line with the names below it.
    fn report(&self, faults_over: Instant) -> (Report, String) {
        let heard = self.consumer.record();
        let submitted = lock(&self.submitted);
        let verdict = checker::check(submitted.tasks(), &heard.outcomes, answer_of);
        let mut lost: BTreeMap<Seen, BTreeSet<String>> = BTreeMap::new();
        for id in &verdict.lost {
            lost.entry(self.witness.seen(id))
                .or_default()
                .insert(id.clone());
        }
        let last = heard.first.values().max().copied().unwrap_or(faults_over);
        let mut text = format!(
            "{}: seed {}, {verdict}, {:.1} s ({:.1} s after the last fault)\n{}",
            self.name,
            self.chance.seed,
            self.begun.elapsed().as_secs_f64(),
            last.saturating_duration_since(faults_over).as_secs_f64(),
            verdict.details(),
        );
        for (seen, ids) in &lost {
            text += &checker::list(&format!("lost, {seen}"), ids.iter().cloned());
        }
        (Report { verdict, lost }, text)
    }
}

/// A test that fails says how to repeat it, and what the runners complained of.
impl Drop for Run {
    fn drop(&mut self) {
        if let Some(feeding) = &self.feeding {
            feeding.abort();
        }
        if !std::thread::panicking() {
            return;
        }
        println!(
            "{}: failed, repeat with WASMQTT_FAULTS_SEED={}",
            self.name, self.chance.seed
        );
        for number in 0..self.fleet.count() {
            let log = self.fleet.log(number);
            let complaints = log
                .lines()
                .filter(|line| line.contains(" WARN ") || line.contains("ERROR"));
            let complaints: Vec<&str> = complaints.collect();
            let last = complaints.len().saturating_sub(20);
            println!("runner {number}:\n{}", complaints[last..].join("\n"));
        }
    }
}

impl Report {
    /// Nothing is lost and every task succeeded, whatever was said twice.
    pub(crate) fn is_whole(&self) {
        assert!(
            self.verdict.is_whole() && self.verdict.all_succeeded(),
            "the verdict above is not as promised"
        );
        assert!(self.verdict.acknowledged > 0, "nothing was submitted");
    }

    /// The same but for what the broker lost while it was the broker's.
    pub(crate) fn is_whole_but_for_the_broker(&self) {
        let runners = self.lost.keys().any(|seen| !seen.is_the_brokers());
        assert!(
            self.verdict.is_consistent() && !runners && self.verdict.all_succeeded(),
            "the verdict above is not as promised"
        );
        assert!(self.verdict.acknowledged > 0, "nothing was submitted");
    }
}

fn lock(record: &Mutex<Record>) -> std::sync::MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
