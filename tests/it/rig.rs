//! A broker, a runner and a client for one test; all of it ends with the test.

use std::ops::Deref;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wasmqtt::broker::{Broker, Settings};
use wasmqtt::config::Config;
use wasmqtt::envelope::{Inbound, Message, Properties};
use wasmqtt::modules::jail::Compiler;
use wasmqtt::mqtt::settings::{Address, Settings as Connection};
use wasmqtt::mqtt::{self, Deliveries, PublishError, Published, Publisher};
use wasmqtt::runner::Runner;

use crate::contract;

/// Only catches a hang: nothing that is waited for takes a tenth of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one test, with threads of its own.
pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test);
    runtime.shutdown_timeout(Duration::from_secs(5));
}

/// A runner on a broker.
pub(crate) struct Rig {
    /// What the runner was started with.
    pub(crate) config: Config,
    /// Hears `task_completed` of every tenant, `task_status/#`, `task_log/#` and `replies/#`.
    pub(crate) ear: Ear,
    broker: Option<Broker>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Rig {
    /// A runner on an embedded broker of its own.
    pub(crate) async fn new() -> Rig {
        Rig::with(|_| {}).await
    }

    /// The same with another configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Rig {
        let broker = Broker::start(Settings::default()).await.expect("a broker");
        let mut config = config(&broker.url());
        change(&mut config);
        let mut rig = Rig::on(config).await;
        rig.broker = Some(broker);
        rig
    }

    /// A runner on a broker that is already there.
    pub(crate) async fn on(config: Config) -> Rig {
        let ear = Ear::connect(&config.mqtt.url).await;
        Rig::heard_by(ear, config).await
    }

    /// The same, heard by an ear that may be connected otherwise than the runner.
    pub(crate) async fn heard_by(ear: Ear, config: Config) -> Rig {
        let runner = Runner::start(&config).await.expect("a runner");
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(runner.run(async move {
            let _ = stopped.await;
        }));
        Rig {
            config,
            ear,
            broker: None,
            stop: Some(stop),
            running,
        }
    }

    /// Publishes a module of the default tenant.
    pub(crate) async fn push(&self, name: &str, module: &'static [u8]) {
        self.publish(Message {
            retain: true,
            ..Message::new(format!("modules/{name}"), module)
        })
        .await;
    }

    /// Publishes anything, at QoS 1.
    pub(crate) async fn publish(&self, message: Message) {
        self.ear.publisher.publish(message).await.expect("a PUBACK");
    }

    /// Publishes a JSON task of the default tenant; its outcome.
    pub(crate) async fn task(&mut self, task: Value) -> Value {
        let id = task["id"].as_str().expect("an id").to_owned();
        self.publish(Message::new("task_queue", task.to_string()))
            .await;
        self.ear.outcome(&id).await
    }

    /// Asks the runner to drain, and waits for that.
    pub(crate) async fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
            let stopped = tokio::time::timeout(PATIENCE, &mut self.running).await;
            stopped
                .expect("drained in time")
                .expect("no panic")
                .expect("no error");
        }
    }

    /// Ends everything in good order.
    pub(crate) async fn end(mut self) {
        self.stop().await;
        self.ear.publisher.close().await;
        if let Some(broker) = self.broker.take() {
            broker.stop().await;
        }
    }
}

/// A configuration for tests: small, quick to look up, no cache folder shared with anybody.
pub(crate) fn config(url: &str) -> Config {
    let mut config = Config::default();
    config.mqtt.url = url.to_owned();
    config.mqtt.session_expiry_s = 0;
    config.runner.name = format!("test-{}", std::process::id());
    config.runner.concurrency = 4;
    config.modules.cache_directory = None;
    config.modules.compiler = Compiler::Jail(env!("CARGO_BIN_EXE_wasmqtt-under-test").into());
    config.journal.directory = None;
    config
}

/// Subscribes to what runners publish.
pub(crate) struct Ear {
    pub(crate) publisher: Watched,
    deliveries: Deliveries,
    /// Heard, but not yet asked for.
    heard: Vec<Inbound>,
}

impl Ear {
    pub(crate) async fn connect(url: &str) -> Ear {
        Ear::with(url, |_| {}).await
    }

    /// One that hears only this.
    pub(crate) async fn hearing(url: &str, filters: &[&str]) -> Ear {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        Ear::with(url, |settings| settings.filters = filters).await
    }

    /// One that the broker keeps everything for while it is away.
    pub(crate) async fn lasting(url: &str) -> Ear {
        Ear::with(url, |settings| {
            settings.clean_start = false;
            settings.session_expiry = Duration::from_secs(3600);
        })
        .await
    }

    async fn with(url: &str, change: impl FnOnce(&mut Connection)) -> Ear {
        static EARS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = EARS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut settings = Connection::new(
            Address::parse(url).expect("a URL"),
            format!("ear-{}-{number}", std::process::id()),
        );
        settings.filters = [
            "task_completed",
            "tenants/+/task_completed",
            "task_status/#",
            "task_log/#",
            "replies/#",
            "tenants/+/replies/#",
        ]
        .map(str::to_owned)
        .to_vec();
        change(&mut settings);
        let (deliveries, publisher) = mqtt::connect(settings);
        publisher.ready().await.expect("connected");
        Ear {
            publisher: Watched(publisher),
            deliveries,
            heard: Vec::new(),
        }
    }

    /// The next message that fits, heard already or to come.
    pub(crate) async fn hear(&mut self, fits: impl Fn(&Inbound) -> bool) -> Inbound {
        self.hear_within(PATIENCE, fits).await
    }

    /// The same, for what may take longer.
    pub(crate) async fn hear_within(
        &mut self,
        patience: Duration,
        fits: impl Fn(&Inbound) -> bool,
    ) -> Inbound {
        if let Some(at) = self.heard.iter().position(&fits) {
            return self.heard.remove(at);
        }
        let heard = tokio::time::timeout(patience, async {
            loop {
                let delivery = self.deliveries.recv().await.expect("connected");
                if let Some(token) = delivery.token {
                    token.ack();
                }
                contract::seen(&delivery.inbound);
                if fits(&delivery.inbound) {
                    return delivery.inbound;
                }
                self.heard.push(delivery.inbound);
            }
        });
        match heard.await {
            Ok(inbound) => inbound,
            Err(_) => panic!("not heard in time; heard instead: {:#?}", self.heard),
        }
    }

    /// A lifecycle event of a task.
    pub(crate) async fn event(&mut self, id: &str, status: &str) -> Value {
        let topic = format!("task_status/{id}");
        let is_it = |inbound: &Inbound| {
            inbound.topic == topic && json(inbound).is_some_and(|event| event["status"] == status)
        };
        json(&self.hear(is_it).await).expect("JSON")
    }

    /// Waits until the guest of a task runs; the task must ask for events.
    pub(crate) async fn started(&mut self, id: &str) {
        self.event(id, "started").await;
    }

    /// What has come and was not asked for, in the order of its coming.
    pub(crate) fn unasked(&self, fits: impl Fn(&Inbound) -> bool) -> Vec<&Inbound> {
        self.heard.iter().filter(|inbound| fits(inbound)).collect()
    }

    /// The outcome of a task, in JSON, on any tenant's `task_completed`.
    pub(crate) async fn outcome(&mut self, id: &str) -> Value {
        self.outcome_within(PATIENCE, id).await
    }

    /// The same, for what may take longer.
    pub(crate) async fn outcome_within(&mut self, patience: Duration, id: &str) -> Value {
        let is_it = |inbound: &Inbound| {
            inbound.topic.ends_with("task_completed")
                && json(inbound).is_some_and(|outcome| outcome["id"] == id)
        };
        let inbound = self.hear_within(patience, is_it).await;
        json(&inbound).expect("JSON")
    }
}

/// Publishes, and holds what it publishes to the contract.
#[derive(Clone)]
pub(crate) struct Watched(Publisher);

impl Watched {
    pub(crate) fn publish(
        &self,
        message: Message,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + use<> {
        contract::published(&message);
        self.0.publish(message)
    }
}

impl Deref for Watched {
    type Target = Publisher;

    fn deref(&self) -> &Publisher {
        &self.0
    }
}

/// A payload as JSON.
pub(crate) fn json(inbound: &Inbound) -> Option<Value> {
    serde_json::from_slice(&inbound.payload).ok()
}

/// The first user property of that name.
pub(crate) fn user<'a>(inbound: &'a Inbound, name: &str) -> Option<&'a str> {
    let of_name = |(n, _): &&(String, String)| n == name;
    let found = inbound.properties.user.iter().find(of_name);
    found.map(|(_, value)| value.as_str())
}

/// A message that the broker keeps.
pub(crate) fn retained(topic: &str, payload: impl Into<bytes::Bytes>) -> Message {
    Message {
        retain: true,
        ..Message::new(topic, payload)
    }
}

/// A task as user properties and raw input.
pub(crate) fn with_properties(payload: impl Into<bytes::Bytes>, user: &[(&str, &str)]) -> Message {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Message {
        properties: Properties {
            user: user.iter().map(owned).collect(),
            ..Properties::default()
        },
        ..Message::new("task_queue", payload)
    }
}
