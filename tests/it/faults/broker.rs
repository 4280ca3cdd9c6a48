//! A broker that can be killed, restarted and found again under the same address.

use std::net::SocketAddr;
use std::sync::Arc;

use wasmqtt::broker::{self, Broker as Embedded};

use crate::faults::cluster::Cluster;
use crate::faults::ground::Ground;
use crate::stock::{Mosquitto, Port};
use crate::under_test::Serve;

/// Keeps what it was told to keep, as Debian installs it: on a clean end, and twice an hour.
const AS_INSTALLED: &str = "persistence true\n";
/// Keeps every change at once.
const SAVING: &str = "persistence true\nautosave_interval 1\nautosave_on_changes true\n";

/// What a trial runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The embedded broker, in this process.
    Embedded,
    /// The embedded broker in a runner's process, which is killed with it.
    Serving,
    /// Mosquitto that keeps nothing.
    Forgetful,
    /// Mosquitto as Debian installs it.
    Installed,
    /// Mosquitto that writes every change to the disk.
    Saving,
    /// Three nodes of rmqtt, of which one is killed or restarted; see [`Broker::aim`].
    Cluster,
}

impl Kind {
    /// Whether it hands what a lost runner held to another at once.
    pub(crate) fn redistributes(self) -> bool {
        matches!(self, Kind::Embedded | Kind::Serving)
    }
}

pub(crate) struct Broker {
    pub(crate) kind: Kind,
    /// Ours also while the embedded broker is away.
    port: Port,
    ground: Arc<Ground>,
    running: Running,
}

enum Running {
    Nothing,
    Embedded(Embedded),
    Serving(Serve),
    Mosquitto(Mosquitto),
    Cluster(Cluster),
}

impl Broker {
    pub(crate) async fn start(kind: Kind, ground: Arc<Ground>) -> Broker {
        let mut broker = Broker {
            kind,
            port: Port::reserve(),
            ground,
            running: Running::Nothing,
        };
        broker.run().await;
        broker
    }

    fn address(&self) -> SocketAddr {
        match &self.running {
            Running::Mosquitto(mosquitto) => mosquitto.port.address(),
            _ => self.port.address(),
        }
    }

    /// Where the runner of that number connects: on a cluster to any node, first to that of its own number.
    pub(crate) fn nodes(&self, runner: usize) -> Vec<SocketAddr> {
        match &self.running {
            Running::Cluster(cluster) => cluster.nodes(runner),
            _ => vec![self.address()],
        }
    }

    /// Where the submitter connects.
    pub(crate) fn for_submitter(&self) -> SocketAddr {
        match &self.running {
            Running::Cluster(cluster) => cluster.for_submitter.address(),
            _ => self.address(),
        }
    }

    /// Where the consumer connects.
    pub(crate) fn url_for_consumer(&self) -> String {
        match &self.running {
            Running::Cluster(cluster) => cluster.for_consumer.url(),
            _ => format!("mqtt://{}", self.address()),
        }
    }

    /// Which node of a cluster is killed, stopped and started from now on; the first one until then.
    pub(crate) fn aim(&mut self, node: usize) {
        if let Running::Cluster(cluster) = &mut self.running {
            cluster.aim = node;
        }
    }

    /// Starts it, also again.
    pub(crate) async fn run(&mut self) {
        let address = self.address();
        self.running = match std::mem::replace(&mut self.running, Running::Nothing) {
            Running::Mosquitto(mut mosquitto) => {
                mosquitto.run().await;
                Running::Mosquitto(mosquitto)
            }
            Running::Cluster(mut cluster) => {
                cluster.run().await;
                Running::Cluster(cluster)
            }
            _ => match self.kind {
                Kind::Embedded => Running::Embedded(embedded(address).await),
                Kind::Serving => Running::Serving(serving(address, &self.ground).await),
                Kind::Forgetful => Running::Mosquitto(Mosquitto::start().await),
                Kind::Installed => Running::Mosquitto(persistent(AS_INSTALLED).await),
                Kind::Saving => Running::Mosquitto(persistent(SAVING).await),
                Kind::Cluster => Running::Cluster(Cluster::start().await),
            },
        };
    }

    /// SIGKILL; the embedded one in this process only ends, which is the same to everybody else.
    pub(crate) async fn kill(&mut self) {
        match &mut self.running {
            Running::Nothing => {}
            Running::Embedded(_) => self.stop().await,
            Running::Serving(serve) => {
                serve.kill();
                serve.ended().await;
            }
            Running::Mosquitto(mosquitto) => mosquitto.kill(),
            Running::Cluster(cluster) => cluster.kill().await,
        }
    }

    /// Its end in good order.
    pub(crate) async fn stop(&mut self) {
        match std::mem::replace(&mut self.running, Running::Nothing) {
            Running::Nothing => {}
            Running::Embedded(broker) => broker.stop().await,
            Running::Serving(serve) => serve.end().await,
            Running::Mosquitto(mut mosquitto) => {
                mosquitto.stop().await;
                self.running = Running::Mosquitto(mosquitto);
            }
            Running::Cluster(mut cluster) => {
                cluster.stop().await;
                self.running = Running::Cluster(cluster);
            }
        }
    }
}

async fn embedded(address: SocketAddr) -> Embedded {
    let settings = broker::Settings {
        address,
        ..broker::Settings::default()
    };
    Embedded::start(settings).await.expect("a broker")
}

/// It is a runner like the others too.
async fn serving(address: SocketAddr, ground: &Ground) -> Serve {
    let address = address.to_string();
    let args = [
        vec!["--embedded-broker".to_owned(), address],
        ground.args("broker"),
    ];
    let args = args.concat();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut serve = Serve::start_with(&args, |command| ground.env(command));
    serve.logs("serve: ready").await;
    serve
}

async fn persistent(lines: &str) -> Mosquitto {
    Mosquitto::with(|mosquitto| {
        let folder = mosquitto.folder.path().display();
        format!("{lines}persistence_location {folder}/\n")
    })
    .await
}
