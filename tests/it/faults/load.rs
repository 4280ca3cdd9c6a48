//! The load: keeps a number of tasks unfinished, and writes down what the submitter says of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::faults::checker::Submitted;
use crate::faults::consumer::Consumer;
use crate::faults::submitter::Submitter;
use crate::rig::PATIENCE;

/// Long enough that every guest's place is taken at any time, also on a fast machine.
const NAP_MS: u64 = 300;
/// What is unfinished for longer may be lost, and makes room for another one.
const OLD: Duration = Duration::from_secs(5);

/// How much is submitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// How many in all.
    pub(crate) tasks: usize,
    /// How many unfinished at a time.
    pub(crate) unfinished: usize,
    /// Of those that take their time.
    pub(crate) nap_ms: u64,
}

impl Load {
    /// With more unfinished tasks than the runners take, so that some wait at the broker.
    pub(crate) fn of(tasks: usize) -> Load {
        Load {
            tasks,
            unfinished: 150,
            nap_ms: NAP_MS,
        }
    }

    /// Until the end of the run.
    pub(crate) fn endless() -> Load {
        Load::of(usize::MAX)
    }
}

/// What submitters have said.
#[derive(Debug, Default)]
pub(crate) struct Record {
    tasks: BTreeMap<String, Submitted>,
    tried_at: BTreeMap<String, Instant>,
}

impl Record {
    pub(crate) fn tasks(&self) -> &BTreeMap<String, Submitted> {
        &self.tasks
    }

    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = &String> {
        let acknowledged =
            |(_, submitted): &(&String, &Submitted)| **submitted == Submitted::Acknowledged;
        self.tasks.iter().filter(acknowledged).map(|(id, _)| id)
    }

    /// Takes in a line of a submitter's output.
    fn read(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (word, id) = (words.next(), words.next());
        let id = id.expect("an id").to_owned();
        match word {
            Some("tried") => {
                self.tried_at.insert(id.clone(), Instant::now());
                self.tasks.insert(id, Submitted::Tried);
            }
            Some("acknowledged") => drop(self.tasks.insert(id, Submitted::Acknowledged)),
            // The broker has told the submitter that it will not deliver it.
            Some("refused") => {}
            _ => panic!("not a submitter's line: {line}"),
        }
    }
}

/// Gives the submitter its credit.
pub(crate) struct Feed {
    broker: SocketAddr,
    load: Load,
    record: Arc<Mutex<Record>>,
    submitter: Submitter,
    reading: JoinHandle<()>,
    /// Tasks that submitters were let publish.
    granted: usize,
    submitters: usize,
}

impl Feed {
    pub(crate) fn start(broker: SocketAddr, load: Load, record: Arc<Mutex<Record>>) -> Feed {
        let (submitter, reading) = start(broker, 0, load.nap_ms, &record);
        Feed {
            broker,
            load,
            record,
            submitter,
            reading,
            granted: 0,
            submitters: 1,
        }
    }

    /// As much credit as is due.
    pub(crate) async fn feed(&mut self, consumer: &Consumer) {
        let due = {
            let heard = consumer.record();
            let record = lock(&self.record);
            let unfinished = record
                .tried_at
                .iter()
                .filter(|(id, tried)| tried.elapsed() < OLD && !heard.first.contains_key(*id));
            let untried = self.granted - record.tasks.len();
            let room = self
                .load
                .unfinished
                .saturating_sub(unfinished.count() + untried);
            room.min(self.load.tasks.saturating_sub(self.granted))
        };
        if due > 0 {
            self.granted += due;
            self.submitter.submit(due).await;
        }
    }

    /// So many tasks more.
    pub(crate) fn add(&mut self, tasks: usize) {
        self.load.tasks += tasks;
    }

    /// Whether the whole load was submitted.
    pub(crate) fn is_done(&self) -> bool {
        lock(&self.record).tasks.len() >= self.load.tasks
    }

    /// Kills the submitter; another one takes its place, with other ids.
    pub(crate) async fn kill(&mut self) {
        self.submitter.kill().await;
        // What it said before its end is still in the pipe.
        let read = timeout(PATIENCE, &mut self.reading).await;
        read.expect("in time").expect("no panic");
        self.granted = lock(&self.record).tasks.len();
        let started = start(self.broker, self.submitters, self.load.nap_ms, &self.record);
        (self.submitter, self.reading) = started;
        self.submitters += 1;
    }

    /// Grants no more and waits until all is answered.
    pub(crate) async fn end(self) {
        let Feed {
            submitter, reading, ..
        } = self;
        let mut child = submitter.no_more();
        let ended = timeout(PATIENCE, child.wait()).await;
        let ended = ended.expect("the submitter ends in time");
        assert!(ended.expect("a status").success(), "the submitter failed");
        reading.await.expect("no panic");
    }
}

fn start(
    broker: SocketAddr,
    number: usize,
    nap_ms: u64,
    record: &Arc<Mutex<Record>>,
) -> (Submitter, JoinHandle<()>) {
    let mut submitter = Submitter::start(broker, &number.to_string(), nap_ms);
    let output = submitter.child.stdout.take().expect("its output");
    let reading = tokio::spawn(read(output, record.clone()));
    (submitter, reading)
}

async fn read(output: ChildStdout, record: Arc<Mutex<Record>>) {
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await.expect("UTF-8") {
        lock(&record).read(&line);
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
