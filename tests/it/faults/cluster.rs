//! Three broker nodes that make one cluster, each a process of its own. Their binary is built apart, for it takes
//! long: see `tests/cluster/`.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::proxy::{Proxy, Verdict};
use crate::rig::PATIENCE;
use crate::stock::{self, Port};

/// How the nodes' binary is built.
pub(crate) const BUILD: &str = "cargo build --release --manifest-path tests/cluster/Cargo.toml";
/// Where it is, if not where that puts it.
const BINARY: &str = "WASMQTT_CLUSTER";
/// Who is connected to which node until a connection ends; the tasks of one runner go by each.
pub(crate) const NODES: [&str; 3] = [
    "the submitter's node",
    "the consumer's node",
    "the third node",
];

/// The nodes' binary, if it is there.
pub(crate) fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY) {
        return Some(path.into());
    }
    let built = "/cluster/target/release/wasmqtt-cluster-node";
    let built = PathBuf::from(format!("{}{built}", env!("CARGO_MANIFEST_DIR")));
    built.is_file().then_some(built)
}

pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// The node that faults strike.
    pub(crate) aim: usize,
    pub(crate) for_submitter: Proxy,
    pub(crate) for_consumer: Proxy,
    folder: TempDir,
}

struct Node {
    clients: Port,
    messages: Port,
    raft: Port,
    child: Option<Child>,
}

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        let node = |_| Node {
            clients: Port::reserve(),
            messages: Port::reserve(),
            raft: Port::reserve(),
            child: None,
        };
        let nodes: Vec<Node> = NODES.iter().map(node).collect();
        let mut cluster = Cluster {
            for_submitter: Proxy::balanced(from(&nodes, 0), |_, _, _| Verdict::Pass).await,
            for_consumer: Proxy::balanced(from(&nodes, 1), |_, _, _| Verdict::Pass).await,
            nodes,
            aim: 0,
            folder: TempDir::new().expect("a folder"),
        };
        // One after the other: who leads is not for them to find out.
        for node in 0..NODES.len() {
            cluster.begin(node).await;
        }
        cluster
    }

    /// Where clients connect, beginning with that node.
    pub(crate) fn nodes(&self, first: usize) -> Vec<SocketAddr> {
        from(&self.nodes, first)
    }

    /// Starts a node again; when this returns it is one of the cluster.
    pub(crate) async fn run(&mut self) {
        self.begin(self.aim).await;
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child();
        child.kill().await.expect("it is ours");
    }

    /// SIGTERM; it ends well.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child();
        stock::signal(child.id().expect("running"), Signal::TERM);
        let ended = timeout(PATIENCE, child.wait()).await;
        let status = ended.expect("it ends in time").expect("a status");
        assert!(status.success(), "{status}: {}", self.log(self.aim));
    }

    fn child(&mut self) -> Child {
        self.nodes[self.aim].child.take().expect("running")
    }

    async fn begin(&mut self, node: usize) {
        let begun = timeout(PATIENCE, async {
            // It ends when it finds nobody who leads, as while the others elect somebody.
            while !self.joins(node).await {
                sleep(Duration::from_millis(200)).await;
            }
        });
        let begun = begun.await;
        assert!(begun.is_ok(), "not in the cluster: {}", self.log(node));
    }

    /// Whether it is one of the cluster, instead of having ended.
    async fn joins(&mut self, node: usize) -> bool {
        let list = |port: fn(&Node) -> &Port| {
            let addresses = self
                .nodes
                .iter()
                .map(|node| port(node).address().to_string());
            addresses.collect::<Vec<_>>().join(",")
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(node))
            .expect("a log");
        let mut child = Command::new(binary().expect("it was looked for"))
            .arg((node + 1).to_string())
            .arg(self.nodes[node].clients.address().to_string())
            .arg(list(|node| &node.messages))
            .arg(list(|node| &node.raft))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("a node starts");
        let mut output = BufReader::new(child.stdout.take().expect("its output")).lines();
        let said = output.next_line().await.expect("UTF-8");
        let joined = said.is_some_and(|said| said == "ready");
        if joined {
            self.nodes[node].child = Some(child);
        }
        joined
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}.log"))
    }

    fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }
}

/// All of them, beginning with one.
fn from(nodes: &[Node], first: usize) -> Vec<SocketAddr> {
    let all = nodes.iter().cycle().skip(first).take(nodes.len());
    all.map(|node| node.clients.address()).collect()
}
