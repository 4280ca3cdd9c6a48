//! The consumer: writes down every outcome on `task_completed`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use wasmqtt::mqtt::settings::{Address, Settings};
use wasmqtt::mqtt::{self, Deliveries, Publisher, State};

use crate::contract;
use crate::faults::checker::Heard;
use crate::rig::PATIENCE;

/// Keeps its session over restarts of itself and, where the broker keeps it, of the broker.
pub(crate) struct Consumer {
    publisher: Publisher,
    record: Arc<Mutex<Record>>,
    hearing: JoinHandle<()>,
}

/// What was heard so far.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) outcomes: Vec<Heard>,
    /// By id, when its first outcome came.
    pub(crate) first: BTreeMap<String, Instant>,
    /// When something came last.
    pub(crate) last: Instant,
}

impl Consumer {
    pub(crate) async fn connect(url: &str) -> Consumer {
        let mut settings = Settings::new(Address::parse(url).expect("a URL"), "consumer");
        settings.clean_start = false;
        settings.session_expiry = Duration::from_secs(3600);
        settings.filters = vec!["task_completed".to_owned()];
        let (deliveries, publisher) = mqtt::connect(settings);
        publisher.ready().await.expect("connected");
        let record = Arc::new(Mutex::new(Record {
            outcomes: Vec::new(),
            first: BTreeMap::new(),
            last: Instant::now(),
        }));
        let hearing = tokio::spawn(hear(deliveries, record.clone()));
        Consumer {
            publisher,
            record,
            hearing,
        }
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    /// Waits until it has noticed that the broker is away.
    pub(crate) async fn is_away(&self) {
        self.is(|state| matches!(state, State::Connecting { .. }))
            .await;
    }

    /// Waits until it is connected and subscribed.
    pub(crate) async fn is_back(&self) {
        self.is(|state| matches!(state, State::Online(_))).await;
    }

    async fn is(&self, so: impl Fn(&State) -> bool) {
        let mut state = self.publisher.state();
        let waited = timeout(PATIENCE, state.wait_for(|state| so(state))).await;
        waited.expect("in time").expect("it goes on");
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

async fn hear(mut deliveries: Deliveries, record: Arc<Mutex<Record>>) {
    while let Some(delivery) = deliveries.recv().await {
        {
            contract::seen(&delivery.inbound);
            let outcome = read(&delivery.inbound.payload);
            let mut record = lock(&record);
            record.last = Instant::now();
            record
                .first
                .entry(outcome.id.clone())
                .or_insert_with(Instant::now);
            record.outcomes.push(outcome);
        }
        if let Some(token) = delivery.token {
            token.ack();
        }
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is no outcome becomes one that nobody expects.
fn read(payload: &[u8]) -> Heard {
    let outcome: Value = serde_json::from_slice(payload)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(payload).into_owned()));
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let answer = [
        &outcome["output"],
        &outcome["output_base64"],
        &outcome["error"]["code"],
    ];
    Heard {
        id: text(&outcome["id"]),
        status: text(&outcome["status"]),
        answer: answer.map(text).concat(),
        runner: text(&outcome["runner"]),
        started_at: text(&outcome["started_at"]),
    }
}
