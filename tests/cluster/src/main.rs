//! One node of a cluster of MQTT 5 brokers in one process: rmqtt with its plugins for clusters, shared subscriptions
//! and retained messages, as they come. For the ledger's column of a clustered broker, and for nothing else: whoever
//! can connect may do anything.
//!
//! Says `ready` on its standard output when it listens, ends at once when it is told to, and keeps nothing: its
//! sessions are in memory, and so is its copy of the raft's log.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rmqtt::context::ServerContext;
use rmqtt::net::{Builder, Listener};
use rmqtt::server::MqttServer;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: wasmqtt-cluster-node ID LISTEN GRPC,GRPC,... RAFT,RAFT,...

ID      the node's number, from 1
LISTEN  where MQTT clients connect, as 127.0.0.1:1883
GRPC    where the nodes send each other messages, in the order of their numbers
RAFT    where they agree on sessions and subscriptions, in the same order

Node 1 is started first; one that is started again joins whoever leads by then.";

/// As the embedded broker's; by default what exceeds 1,000 is dropped after a successful PUBACK.
const SESSION_QUEUE_MESSAGES: usize = 1_000_000;
const SESSION_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

struct Node {
    id: u64,
    listen: SocketAddr,
    grpc: Vec<SocketAddr>,
    raft: Vec<SocketAddr>,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let node = Node::parse(&args).with_context(|| USAGE.to_owned())?;
    log::set_logger(&ToStderr).map_err(|error| anyhow::anyhow!("{error}"))?;
    log::set_max_level(log::LevelFilter::Warn);
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(node.serve());
    // A runtime waits for what is blocked in it, and raft's is.
    runtime.shutdown_background();
    ended
}

impl Node {
    fn parse(args: &[String]) -> anyhow::Result<Node> {
        let [id, listen, grpc, raft] = args else {
            bail!("four arguments are needed");
        };
        let addresses = |list: &str| list.split(',').map(str::parse).collect::<Result<_, _>>();
        let node = Node {
            id: id.parse()?,
            listen: listen.parse()?,
            grpc: addresses(grpc)?,
            raft: addresses(raft)?,
        };
        if node.grpc.len() != node.raft.len() || node.at().is_none() {
            bail!("every node needs two addresses");
        }
        Ok(node)
    }

    /// The place of its own addresses.
    fn at(&self) -> Option<usize> {
        let at = usize::try_from(self.id).ok()?.checked_sub(1)?;
        (at < self.grpc.len()).then_some(at)
    }

    async fn serve(self) -> anyhow::Result<()> {
        let mut told_to_end = signal(SignalKind::terminate())?;
        let context = ServerContext::new()
            .node_id(self.id)
            // It refuses connections on a loaded machine, and a test's is.
            .busy_check_enable(false)
            .plugins_config_map_add("rmqtt-cluster-raft", self.cluster())
            .plugins_config_map_add("rmqtt-shared-subscription", "strategy = \"round_robin\"")
            // By default a module of more than a megabyte would not be retained.
            .plugins_config_map_add("rmqtt-retainer", "max_payload_size = \"64MB\"")
            .build()
            .await;
        let grpc = self.grpc[self.at().context("no address")?];
        let own = context.clone();
        context.node.start_grpc_server(own, grpc, true, false);
        rmqtt_shared_subscription::register(&context, true, false).await?;
        rmqtt_retainer::register(&context, true, false).await?;
        tokio::select! {
            joined = rmqtt_cluster_raft::register(&context, true, false) => joined?,
            _ = told_to_end.recv() => return Ok(()),
        }
        // Clients come when the cluster is there.
        let server = MqttServer::new(context).listener(self.listener()?).build();
        println!("ready");
        tokio::select! {
            ended = server.run() => Ok(ended?),
            _ = told_to_end.recv() => Ok(()),
        }
    }

    /// The same settings as the embedded broker's, for the same reasons.
    fn listener(&self) -> anyhow::Result<Listener> {
        let listener = Builder::new()
            .name("cluster")
            .laddr(self.listen)
            .reuseaddr(Some(true))
            .nodelay(true)
            .max_packet_size(64 << 20)
            .max_inflight(NonZeroU16::MAX)
            .max_mqueue_len(SESSION_QUEUE_MESSAGES)
            .message_retry_interval(Duration::ZERO)
            .message_expiry_interval(Duration::ZERO)
            .session_expiry_interval(SESSION_EXPIRY)
            .max_session_expiry_interval(SESSION_EXPIRY)
            .allow_anonymous(true)
            .bind()?
            .tcp()?;
        Ok(listener)
    }

    /// Configuration of the plugin.
    fn cluster(&self) -> String {
        let list = |addresses: &[SocketAddr]| {
            let numbered = (1..).zip(addresses);
            let entries = numbered.map(|(id, address)| format!("\"{id}@{address}\""));
            entries.collect::<Vec<_>>().join(", ")
        };
        let (grpc, raft) = (list(&self.grpc), list(&self.raft));
        format!(
            "node_grpc_addrs = [{grpc}]\n\
             raft_peer_addrs = [{raft}]\n\
             leader_id = 1\n\
             [raft]\n\
             grpc_reuseaddr = true\n"
        )
    }
}

struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{} {}: {}", record.level(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}
