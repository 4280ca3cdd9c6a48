//! The submitter: a process of its own, so that it can be killed. It says every id before it publishes the task and
//! every id that was acknowledged, and publishes nothing twice: what is lost stays lost.

use std::collections::{HashMap, VecDeque};
use std::io::BufRead as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, ConnectionError, Event};
use rumqttc::{Outgoing, v5::EventLoop};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::sleep;
use wasmqtt::envelope::Message;

use crate::contract;
use crate::raw_client::options;

/// Address of the broker, prefix of the ids and milliseconds of a nap. The integration binary is then a submitter.
const WANTED: &str = "FAULTS_SUBMITTER";
/// The modules of the tasks, in turn: two at once, two that take their time.
const MODULES: [&str; 4] = ["echo", "nap", "burn", "nap"];
/// About two milliseconds of a guest.
const FUEL: &str = "1000000";

/// What a task answers when it succeeds, told from its id.
pub(crate) fn answer_of(id: &str) -> String {
    if id.starts_with("echo") { id } else { "done" }.to_owned()
}

/// The process, from the outside.
pub(crate) struct Submitter {
    pub(crate) child: Child,
    credit: ChildStdin,
}

impl Submitter {
    /// Starts one; what it says comes on its standard output.
    pub(crate) fn start(broker: std::net::SocketAddr, prefix: &str, nap_ms: u64) -> Submitter {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .env(WANTED, format!("{broker} {prefix} {nap_ms}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a submitter");
        let credit = child.stdin.take().expect("its input");
        Submitter { child, credit }
    }

    /// Lets it publish so many more tasks.
    pub(crate) async fn submit(&mut self, tasks: usize) {
        // One that was killed takes no more.
        let line = format!("{tasks}\n");
        let _ = self.credit.write_all(line.as_bytes()).await;
    }

    /// Ends its credit, and so the process when all is answered.
    pub(crate) fn no_more(self) -> Child {
        self.child
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it is ours");
    }
}

/// The process, from the inside; `None` when this is an ordinary run of the tests.
pub(crate) fn wanted() -> Option<ExitCode> {
    let wanted = std::env::var(WANTED).ok()?;
    let fields: Vec<&str> = wanted.split(' ').collect();
    let [broker, prefix, nap_ms] = fields[..] else {
        panic!("not what a submitter needs: {wanted}");
    };
    let task = Tasks {
        prefix: prefix.to_owned(),
        nap_ms: nap_ms.to_owned(),
        count: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(broker.parse().expect("an address"), task));
    Some(ExitCode::SUCCESS)
}

/// The tasks, one after the other.
struct Tasks {
    prefix: String,
    nap_ms: String,
    count: usize,
}

impl Tasks {
    fn next(&mut self) -> (String, String) {
        let module = MODULES[self.count % MODULES.len()];
        let id = format!("{module}-{}-{}", self.prefix, self.count);
        self.count += 1;
        let input = match module {
            "echo" => &id,
            "burn" => FUEL,
            _ => &self.nap_ms,
        };
        // A runner is stopped for longer than a task's time is by default: what is tried is not that.
        let limits = json!({"timeout_ms": 60_000});
        let task = json!({"id": id, "module": module, "input": input, "limits": limits});
        let task = task.to_string();
        contract::published(&Message::new("task_queue", task.clone()));
        (id, task)
    }
}

/// Connects as often as it takes, until it is told that there is nothing more to submit and all is answered.
async fn run(broker: std::net::SocketAddr, mut tasks: Tasks) {
    let mut credit = credits();
    let mut open = Open::default();
    for number in 0.. {
        let id = format!("submitter-{}-{number}", tasks.prefix);
        let (client, events) = AsyncClient::new(options(broker, &id), 100_000);
        if connection(&client, events, &mut credit, &mut open, &mut tasks)
            .await
            .is_ok()
        {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// What it may still do.
#[derive(Default)]
struct Open {
    granted: usize,
    ended: bool,
}

/// One connection, to its end; what is not acknowledged on it is given up.
async fn connection(
    client: &AsyncClient,
    events: EventLoop,
    credit: &mut UnboundedReceiver<usize>,
    open: &mut Open,
    tasks: &mut Tasks,
) -> Result<(), ConnectionError> {
    let mut events = polled(events);
    let mut connected = false;
    // Ids that were handed to the client, and those that are under way by their packet id.
    let mut handed: VecDeque<String> = VecDeque::new();
    let mut under_way: HashMap<u16, String> = HashMap::new();
    loop {
        if connected {
            for _ in 0..std::mem::take(&mut open.granted) {
                let (id, task) = tasks.next();
                println!("tried {id}");
                handed.push_back(id);
                let published = client.publish("task_queue", QoS::AtLeastOnce, false, task);
                // Only when the connection has just ended, which the events will tell.
                let _ = published.await;
            }
        }
        if open.ended && handed.is_empty() && under_way.is_empty() {
            return Ok(());
        }
        let event = tokio::select! {
            event = events.recv() => event.expect("an error comes last"),
            granted = credit.recv(), if !open.ended => {
                open.ended = granted.is_none();
                open.granted += granted.unwrap_or_default();
                continue;
            }
        };
        match event? {
            Event::Incoming(Packet::ConnAck(_)) => connected = true,
            Event::Outgoing(Outgoing::Publish(packet)) => {
                let id = handed.pop_front().expect("it was handed over");
                under_way.insert(packet, id);
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                let id = under_way.remove(&ack.pkid).expect("it is under way");
                match ack.reason {
                    PubAckReason::Success => println!("acknowledged {id}"),
                    reason => println!("refused {id} {reason:?}"),
                }
            }
            _ => {}
        }
    }
}

/// A poll must never be cancelled, so a task of its own does nothing else.
fn polled(mut events: EventLoop) -> UnboundedReceiver<Result<Event, ConnectionError>> {
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let event = events.poll().await;
            let last = event.is_err();
            if sender.send(event).is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// The numbers on standard input; the end of it is the end of the credit.
fn credits() -> UnboundedReceiver<usize> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let number = line.expect("UTF-8").parse().expect("a number");
            if sender.send(number).is_err() {
                return;
            }
        }
    });
    receiver
}
