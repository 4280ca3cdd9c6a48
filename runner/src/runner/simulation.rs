//! The life of tasks without any network: a made-up broker at the other end of the publisher, and seeded crashes, cancels
//! and second deliveries around the real flows, journal and sandbox. Every task that the broker took over must end in
//! exactly one outcome, the same to the last byte however often it is published.
//!
//! `WASMQTT_SCHEDULES=10000` runs so many schedules, `WASMQTT_SEED` begins with another; a failure names its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::*;
use crate::envelope::{Inbound, Message, Properties};
use crate::journal::index::Seen;
use crate::journal::record::Key;
use crate::modules::jail::Compiler;
use crate::mqtt::{Command, Delivery, Published, made_up};
use crate::relay::Relay;
use crate::runner::start::open_journal;
use crate::sandbox::engine::{Engine, Sizes};
use crate::task::TaskId;
use crate::task::tenant::TenantId;
use crate::tenants::Tenants;

/// Only catches a hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// Crashes of one schedule.
const CRASHES: u64 = 4;

/// splitmix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What all schedules share.
struct Machine {
    sandbox: Arc<Sandbox>,
    modules: Arc<ModuleStore>,
    _folder: TempDir,
}

impl Machine {
    fn new() -> Machine {
        let folder = TempDir::new().expect("a folder");
        for example in wasmqtt_examples::ALL {
            let file = folder.path().join(format!("{}.wasm", example.name));
            std::fs::write(file, example.wasm).expect("a module");
        }
        std::fs::write(folder.path().join("echo.wasm"), wasmqtt_examples::ECHO).expect("a module");
        let sizes = Sizes {
            guests: 64,
            memory_bytes: 64 << 20,
        };
        let engine = Arc::new(Engine::new(sizes).expect("an engine"));
        let modules = ModuleStore::new(engine.clone(), Compiler::InProcess, 100);
        let modules = modules.with_directory(folder.path()).expect("modules");
        Machine {
            sandbox: Arc::new(Sandbox::new(engine, 2).expect("a sandbox")),
            modules: Arc::new(modules),
            _folder: folder,
        }
    }
}

/// The broker, and what outlives a process.
struct World {
    state: TempDir,
    tasks: Vec<String>,
    /// Which task each message is: a task may be sent again.
    messages: Vec<usize>,
    acknowledged: BTreeSet<usize>,
    delivered: BTreeSet<usize>,
    /// By id.
    outcomes: BTreeMap<String, Vec<Value>>,
    lives: u64,
}

fn task(number: usize, chance: &mut Chance) -> String {
    let id = number.to_string();
    let retry = json!({"max_attempts": 3, "initial_delay_ms": 4, "max_delay_ms": 8});
    let soon = SystemTime::now() + Duration::from_millis(chance.below(30));
    let soon = crate::envelope::encode::rfc3339(soon);
    let task = match chance.below(8) {
        0 => json!({"id": id, "module": "endless", "limits": {"timeout_ms": 2}, "retry": retry}),
        1 => json!({"id": id, "module": "endless", "limits": {"fuel": 100_000}}),
        2 => json!({"id": id, "module": "echo", "input": id, "not_before": soon}),
        3 => json!({"id": id, "module": "echo", "limits": {"fuel": u64::MAX}}),
        4 => json!({"id": id, "module": "echo", "input": id, "expires_at": soon}),
        _ => json!({"id": id, "module": "echo", "input": id}),
    };
    task.to_string()
}

impl World {
    fn new(chance: &mut Chance) -> World {
        let count = 1 + chance.below(12) as usize;
        World {
            state: TempDir::new().expect("a folder"),
            tasks: (0..count).map(|number| task(number, chance)).collect(),
            messages: (0..count).collect(),
            acknowledged: BTreeSet::new(),
            delivered: BTreeSet::new(),
            outcomes: BTreeMap::new(),
            lives: 0,
        }
    }

    fn deliver(&mut self, message: usize, (to, at): &(mpsc::UnboundedSender<Delivery>, Publisher)) {
        let delivery = Delivery {
            inbound: Inbound {
                topic: "task_queue".to_owned(),
                payload: self.tasks[self.messages[message]].clone().into(),
                properties: Properties::default(),
            },
            redelivered: !self.delivered.insert(message),
            token: Some(made_up::token(at, self.lives, message as u16)),
            mark: 0,
        };
        let _ = to.send(delivery);
    }

    fn heard(&mut self, message: &Message) {
        if message.topic == "task_completed" {
            let outcome: Value = serde_json::from_slice(&message.payload).expect("JSON");
            let id = outcome["id"].as_str().expect("an id").to_owned();
            self.outcomes.entry(id).or_default().push(outcome);
        }
    }

    fn unfinished(&self, shared: &Shared) -> Vec<String> {
        let unfinished = (0..self.tasks.len()).filter(|number| {
            let ended = self.outcomes.contains_key(&number.to_string());
            let acknowledged = |(message, of): (usize, &usize)| {
                of != number || self.acknowledged.contains(&message)
            };
            !ended || !self.messages.iter().enumerate().all(acknowledged)
        });
        let tell = |number: usize| {
            let id = TaskId::parse(&number.to_string()).expect("an id");
            let seen = shared.journal.seen(Key::of(&TenantId::default(), &id));
            format!("{} {seen:?}", self.tasks[number])
        };
        unfinished.map(tell).collect()
    }

    fn is_over(&self) -> bool {
        self.acknowledged.len() == self.messages.len() && self.outcomes.len() == self.tasks.len()
    }

    /// Takes one command; false when the process is to die of it.
    fn take(&mut self, command: Command, dies: bool, chance: &mut Chance) -> bool {
        match command {
            Command::Publish(message, done) => {
                // Dead before the broker has it, or after, but before the PUBACK.
                if !dies || chance.below(2) == 0 {
                    self.heard(&message);
                }
                if !dies {
                    let _ = done.send(Ok(Published::Accepted));
                }
            }
            Command::Ack(place) => {
                assert_eq!(place.generation, self.lives, "a token of another life");
                if !dies {
                    self.acknowledged.insert(place.packet_id.into());
                }
            }
            Command::Close(done) => drop(done),
            Command::Subscribe(..) | Command::Unsubscribe(_) => {}
        }
        !dies
    }

    /// One process, until it dies or, the last one, until everything is over.
    async fn life(&mut self, machine: &Machine, chance: &mut Chance, last: bool) {
        self.lives += 1;
        let (publisher, mut commands, _state) = made_up::publisher();
        let (deliver, deliveries) = mpsc::unbounded_channel();
        let deliver = (deliver, publisher.clone());
        let (runner, closer) = runner(self.state.path(), machine, publisher, deliveries);
        let shared = runner.shared.clone();
        let (_stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(runner.run(async {
            let _ = stopped.await;
        }));
        for message in 0..self.messages.len() {
            if !self.acknowledged.contains(&message) {
                self.deliver(message, &deliver);
            }
        }
        let mut left = if last { u64::MAX } else { 1 + chance.below(30) };
        let mut quiet = 0;
        while !(last && self.is_over()) {
            tokio::select! {
                Some(command) = commands.recv() => {
                    quiet = 0;
                    left -= 1;
                    if !self.take(command, left == 0, chance) {
                        break;
                    }
                }
                () = sleep(Duration::from_millis(3)) => {
                    quiet += 1;
                    // Ten times as long as any wait that a schedule asks for.
                    assert!(quiet < 2_000, "stuck: {} acknowledged, {} ended of {:#?}", self.acknowledged.len(), self.outcomes.len(), self.unfinished(&shared));
                    let number = chance.below(self.tasks.len() as u64) as usize;
                    match chance.below(6) {
                        // Sent again by the submitter.
                        0 if self.messages.len() < 64 => {
                            self.messages.push(number);
                            self.deliver(self.messages.len() - 1, &deliver);
                        }
                        1 => {
                            let id = TaskId::parse(&number.to_string()).expect("an id");
                            let key = Key::of(&TenantId::default(), &id);
                            let ended = matches!(shared.journal.seen(key), Some(Seen::Ended { .. }));
                            shared.active.cancel(key, !ended);
                        }
                        _ => {}
                    }
                    if !last && quiet > 20 {
                        break;
                    }
                }
            }
        }
        running.abort();
        let _ = running.await;
        drop(shared);
        // The next process finds what this one has written.
        tokio::task::spawn_blocking(|| closer.close())
            .await
            .expect("no panic");
    }
}

fn runner(
    state: &std::path::Path,
    machine: &Machine,
    publisher: Publisher,
    deliveries: Deliveries,
) -> (Runner, journal::Closer) {
    let mut config = Config::default();
    config.journal.directory = Some(state.to_owned());
    config.runner.max_deaths = 100;
    let slot = Slot::take(&config).expect("a slot");
    let (journal, closer, recovered) = open_journal(&config, &slot).expect("a journal");
    let topics = Topics::default();
    let shared = Shared {
        name: slot.name.clone(),
        tenants: Tenants::new(config.tenant_table().expect("tenants")),
        sandbox: machine.sandbox.clone(),
        answers: Relay::start(),
        modules: machine.modules.clone(),
        permits: Permits::new(4, 1 << 30),
        active: Active::default(),
        lanes: lanes::made_up(publisher),
        journal,
        peers: None,
        board: Arc::new(Board::new(&topics, "simulated")),
        topics,
        retry: config.retry,
        max_deaths: config.runner.max_deaths,
        kept: KeptTasks::new(8),
        suspects: tokio::sync::Mutex::default(),
        draining: watch::Sender::new(false),
        stopped: watch::Sender::new(false),
    };
    let shared = Arc::new(shared);
    let runner = Runner {
        reloader: Reloader {
            shared: Arc::downgrade(&shared),
            config: config.clone(),
        },
        failures: mpsc::unbounded_channel().1,
        shared,
        deliveries,
        others: Vec::new(),
        control: None,
        submitters: JoinSet::new(),
        recovered,
        journal: None,
        keeps_session: true,
        backlog: 1000,
        drain: Duration::ZERO,
        slot,
    };
    (runner, closer)
}

async fn schedule(machine: &Machine, seed: u64) {
    let mut chance = Chance(seed);
    let mut world = World::new(&mut chance);
    for _ in 0..chance.below(CRASHES + 1) {
        world.life(machine, &mut chance, false).await;
    }
    world.life(machine, &mut chance, true).await;
    for (number, task) in world.tasks.iter().enumerate() {
        let outcomes = &world.outcomes[&number.to_string()];
        for other in &outcomes[1..] {
            assert_eq!(other, &outcomes[0], "seed {seed}: {task}");
        }
    }
}

#[test]
fn every_task_has_exactly_one_outcome() {
    let number = |name: &str, default: u64| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    let (schedules, first) = (number("WASMQTT_SCHEDULES", 200), number("WASMQTT_SEED", 1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let machine = Arc::new(Machine::new());
        let turns = Arc::new(Semaphore::new(8));
        let mut running = JoinSet::new();
        for seed in first..first + schedules {
            let (machine, turns) = (machine.clone(), turns.clone());
            running.spawn(async move {
                let _turn = turns.acquire().await.expect("a turn");
                let ended = timeout(PATIENCE, schedule(&machine, seed)).await;
                assert!(ended.is_ok(), "seed {seed}: not over in time");
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.expect("every schedule holds");
        }
    });
    println!("{schedules} schedules from seed {first}: every task has exactly one outcome");
}
