//! An MQTT broker inside the process, for demos, tests and single machines.
//!
//! Owns the broker's thread, its runtime and its settings; the rooms beside it own the rest: [`shares`] decides who
//! gets a message of a shared subscription and where it waits, over [`groups`] and [`held`]; [`sessions`] tells it what
//! becomes of the sessions, [`hooks`] what becomes of the messages, [`retained`] keeps the retained ones, and [`doors`]
//! lets in who may. Only
//! `broker*` names rmqtt. Knows nothing of tasks, tenants or modules: they are topics
//! and bytes here.
//!
//! Everything is in memory: what waits here ends with the process. Several brokers in one process do not see each
//! other (rmqtt's only global state, a cached load average, belongs to the busy check, which is off).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rmqtt::context::ServerContext;
use rmqtt::hook::Type;
use rmqtt::net::{Builder, Listener};
use rmqtt::router::DefaultRouter;
use rmqtt::server::MqttServer;
use rmqtt::shared::DefaultShared;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error};

pub use self::doors::User;
use self::doors::{Door, Doors};
use self::hooks::Hooks;
use self::retained::Retained;
use self::sessions::{OwnShares, Sessions};
use self::shares::{Limits, Shares};

mod doors;
mod groups;
mod held;
mod hooks;
mod retained;
mod sessions;
mod shares;

/// Directives for a log filter: rmqtt tells every connection at `info`, and warns of what is ordinary here.
pub const LOG_FILTER: &str = "rmqtt=warn,rmqtt_net=warn,rmqtt_codec=warn";

/// rmqtt drops what exceeds a session's queue, after a successful PUBACK. Messages of shared subscriptions wait in
/// [`shares`] instead, so this bounds only what is queued for ordinary subscribers that are slow or away.
const SESSION_QUEUE_MESSAGES: usize = 1_000_000;
/// Of the hooks that deny; those that do not say have 0.
const DOORS: u32 = 100;
/// How long [`Broker::stop`] waits for the connections to end by themselves.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What the broker listens on, and how much it holds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens; port 0 picks a free one. Loopback by default.
    pub address: SocketAddr,
    /// Who may connect, and do what. None by default: then whoever can connect may do anything.
    pub users: Vec<User>,
    /// Client ids that begin so are for runners alone; empty by default, for none.
    pub runner_client_ids: String,
    /// The largest packet it takes, in bytes: 64 MiB by default, so that a module can be published.
    pub max_packet_bytes: u32,
    /// Topic filters whose messages wait while no shared subscription takes them, instead of being dropped as MQTT
    /// would have it. `task_queue` and `tenants/+/task_queue` by default. Such a message is never retained:
    /// every new subscriber would run it again.
    pub park: Vec<String>,
    /// How many messages for shared subscriptions it holds, from their publish to their acknowledgement: 1,000,000 by
    /// default. Beyond it a publish is refused, and that is logged: an MQTT 5 publisher is answered "quota exceeded", an
    /// older one is disconnected without its PUBACK, and QoS 0, which cannot be answered, is dropped. Messages
    /// that were accepted before are never dropped for room.
    pub max_held_messages: usize,
    /// How many bytes they may have, counted as payload, topic and properties plus 700 each for keeping them:
    /// 1 GiB by default.
    pub max_held_bytes: usize,
    /// The longest that a session may outlive its connection: a day by default. MQTT 3.1.1 sessions that are not
    /// clean, which cannot ask for a time, get this one.
    pub max_session_expiry: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            users: Vec::new(),
            runner_client_ids: String::new(),
            max_packet_bytes: 64 << 20,
            park: vec!["task_queue".into(), "tenants/+/task_queue".into()],
            max_held_messages: 1_000_000,
            max_held_bytes: 1 << 30,
            max_session_expiry: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// An MQTT 5 and 3.1.1 broker on a thread of its own. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

impl Broker {
    /// Starts listening and returns once connections are accepted.
    ///
    /// # Errors
    /// When the address cannot be bound, or the thread not started.
    pub async fn start(settings: Settings) -> anyhow::Result<Broker> {
        let (started, starting) = oneshot::channel();
        let (stop, stopping) = oneshot::channel();
        let (ended, stopped) = oneshot::channel();
        // rmqtt spawns tasks that only the end of their runtime ends (sessions that are away, its executors),
        // so it gets one of its own, and its thread is what owns it.
        std::thread::Builder::new()
            .name("mqtt-broker".into())
            .spawn(move || {
                run(settings, started, stopping);
                let _ = ended.send(());
            })
            .context("failed to start the broker's thread")?;
        let address = starting
            .await
            .context("the broker's thread ended before it listened")??;
        Ok(Broker {
            address,
            stop,
            stopped,
        })
    }

    /// The address that it really listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where a client on this machine finds it, as `mqtt://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        let host = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("mqtt://{}", SocketAddr::new(host, self.address.port()))
    }

    /// Stops listening, closes every connection and forgets everything. When it returns the port is free.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.stopped.await;
    }
}

/// The broker's thread: its runtime lives and ends here.
fn run(
    settings: Settings,
    started: oneshot::Sender<anyhow::Result<SocketAddr>>,
    stopping: oneshot::Receiver<()>,
) {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("mqtt-broker")
        .enable_all()
        .build();
    match runtime.context("failed to start the broker's runtime") {
        Ok(runtime) => {
            runtime.block_on(serve(settings, started, stopping));
            runtime.shutdown_timeout(STOP_GRACE);
        }
        Err(error) => drop(started.send(Err(error))),
    }
}

async fn serve(
    settings: Settings,
    started: oneshot::Sender<anyhow::Result<SocketAddr>>,
    stopping: oneshot::Receiver<()>,
) {
    let context = context(&settings).await;
    let listening = listen(&settings).and_then(|l| Ok((l.local_addr()?, l)));
    let (address, listener) =
        match listening.with_context(|| format!("failed to listen on {}", settings.address)) {
            Ok(listening) => listening,
            Err(error) => {
                let _ = started.send(Err(error));
                return forget(&context).await;
            }
        };
    let server = MqttServer::new(context.clone())
        .listener_by_id(listener, address.port())
        .build();
    let mut accepting = tokio::spawn(server.run());
    let _ = started.send(Ok(address));
    // Also when the `Broker` is dropped, which drops the sender.
    tokio::select! {
        _ = stopping => {}
        ended = &mut accepting => error!(?ended, "the broker stopped listening"),
    }
    accepting.abort();
    let _ = accepting.await;
    close_sessions(&context).await;
    forget(&context).await;
}

fn listen(settings: &Settings) -> anyhow::Result<Listener> {
    Builder::new()
        .name("wasmqtt")
        .laddr(settings.address)
        // Else the port stays taken for a minute by the connections that the broker closed itself.
        .reuseaddr(Some(true))
        // Off by default: tails of 40 ms.
        .nodelay(true)
        .max_packet_size(settings.max_packet_bytes)
        .max_inflight(NonZeroU16::MAX)
        .max_mqueue_len(SESSION_QUEUE_MESSAGES)
        // By default it resends every 20 s, and forgets after 5 minutes.
        .message_retry_interval(Duration::ZERO)
        .message_expiry_interval(Duration::ZERO)
        .session_expiry_interval(settings.max_session_expiry)
        .max_session_expiry_interval(settings.max_session_expiry)
        .allow_anonymous(settings.users.is_empty())
        .bind()?
        .tcp()
}

async fn context(settings: &Settings) -> ServerContext {
    // The busy check refuses connections on a loaded machine, and ours is: the work is done beside the broker.
    let context = ServerContext::new().busy_check_enable(false).build().await;
    let limits = Limits {
        messages: settings.max_held_messages,
        bytes: settings.max_held_bytes,
    };
    let shares = Arc::new(Shares::new(limits, settings.park.clone()));
    let extends = &context.extends;
    *extends.shared_mut().await = Box::new(Sessions::new(
        DefaultShared::new(Some(context.clone())),
        shares.clone(),
        !settings.users.is_empty(),
    ));
    *extends.shared_subscription_mut().await = Box::new(OwnShares);
    *extends.retain_mut().await = Box::new(Retained::new(settings.park.clone()));
    let register = extends.hook_mgr().register();
    if !settings.users.is_empty() {
        let doors = Doors::new(settings, shares.clone());
        for on in [
            Type::ClientAuthenticate,
            Type::ClientSubscribeCheckAcl,
            Type::MessagePublishCheckAcl,
        ] {
            // Before the others: what is denied takes no room.
            register
                .add_priority(on, DOORS, Box::new(Door(doors.clone())))
                .await;
        }
    }
    for on in [
        Type::MessagePublish,
        Type::MessagePublishCheckAcl,
        Type::MessageExpiryCheck,
        Type::MessageDelivered,
        Type::MessageAcked,
        Type::MessageDropped,
        Type::ClientDisconnected,
    ] {
        register.add(on, Box::new(Hooks::new(shares.clone()))).await;
    }
    register.start().await;
    context
}

/// Ends every session, connected or away, as an administrator would.
async fn close_sessions(context: &ServerContext) {
    let ids: Vec<_> = context
        .extends
        .shared()
        .await
        .iter()
        .map(|entry| entry.id())
        .collect();
    let mut kicks = JoinSet::new();
    for id in ids {
        let context = context.clone();
        kicks.spawn(async move {
            let mut entry = context.extends.shared().await.entry(id);
            if let Err(error) = entry.kick(true, true, true).await {
                debug!(%error, "a session did not answer the kick");
            }
        });
    }
    let deadline = Instant::now() + STOP_GRACE;
    let _ = timeout(STOP_GRACE, async {
        while kicks.join_next().await.is_some() {}
    })
    .await;
    while context.connections.count() > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
}

/// The context and its parts hold each other, so nothing would ever be freed.
async fn forget(context: &ServerContext) {
    *context.extends.shared_mut().await = Box::new(DefaultShared::new(None));
    *context.extends.router_mut().await = Box::new(DefaultRouter::new(None));
}
