//! A TCP link between a client and a broker that can be cut, half-closed, slowed, shut and stalled, can end in the
//! middle of a packet, and shows every packet.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::packets::Packet;

/// Packets on their way in one direction of a slow link.
const ON_THE_WAY: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToBroker,
    ToClient,
}

/// What does not get through, without any connection ending: not even the end of one gets through then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stall {
    Nothing,
    ToBroker,
    Everything,
}

impl Stall {
    fn holds(self, way: Way) -> bool {
        self == Stall::Everything || self == Stall::ToBroker && way == Way::ToBroker
    }
}

/// What becomes of a packet that the tap has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// The connection ends instead, in both directions.
    Cut,
    /// The same, and no other is made until the proxy is opened again.
    Shut,
}

/// Sees every packet, with the number of its connection.
type Tap = dyn Fn(usize, Way, &Packet) -> Verdict + Send + Sync;

/// Ends with everything that it carries when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    links: Arc<Links>,
    accepting: JoinHandle<()>,
}

struct Links {
    /// Where the broker listens: at one address, or a cluster at one for each of its nodes.
    nodes: Vec<SocketAddr>,
    tap: Box<Tap>,
    stalled: watch::Sender<Stall>,
    /// Counts the cuts.
    cuts: watch::Sender<usize>,
    /// The number of the connection that is to end.
    cut_one: watch::Sender<Option<usize>>,
    /// Counts the half-closes, by way.
    half_closes: [watch::Sender<usize>; 2],
    shut: watch::Sender<bool>,
    delay_ms: AtomicU64,
    /// How many bytes still get through before the connection that would carry more is cut.
    bytes_left: Mutex<Option<usize>>,
    accepted: AtomicUsize,
    /// The numbers of the connections there are.
    live: Mutex<BTreeSet<usize>>,
}

impl Proxy {
    /// In front of a broker.
    pub(crate) async fn start(broker: SocketAddr) -> Proxy {
        Proxy::tapped(broker, |_, _, _| Verdict::Pass).await
    }

    /// The same, seeing every packet.
    pub(crate) async fn tapped(
        broker: SocketAddr,
        tap: impl Fn(usize, Way, &Packet) -> Verdict + Send + Sync + 'static,
    ) -> Proxy {
        Proxy::balanced(vec![broker], tap).await
    }

    /// The same in front of a cluster: the first connection goes to the first node, and every other one to the node
    /// after the last one's, or the next one that listens.
    pub(crate) async fn balanced(
        nodes: Vec<SocketAddr>,
        tap: impl Fn(usize, Way, &Packet) -> Verdict + Send + Sync + 'static,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let links = Arc::new(Links {
            nodes,
            tap: Box::new(tap),
            stalled: watch::Sender::new(Stall::Nothing),
            cuts: watch::Sender::new(0),
            cut_one: watch::Sender::new(None),
            half_closes: [watch::Sender::new(0), watch::Sender::new(0)],
            shut: watch::Sender::new(false),
            delay_ms: AtomicU64::new(0),
            bytes_left: Mutex::new(None),
            accepted: AtomicUsize::new(0),
            live: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, links.clone()));
        Proxy {
            address,
            links,
            accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.links.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Ends one connection, by its number.
    pub(crate) fn cut_one(&self, number: usize) {
        self.links.cut_one.send_replace(Some(number));
    }

    /// Ends one direction of every connection; the other goes on until somebody ends it.
    pub(crate) fn half_close(&self, way: Way) {
        self.links.half_closes[way as usize].send_modify(|closes| *closes += 1);
    }

    /// Ends the connection that would carry more than so many bytes from now on, after exactly so many. Once.
    pub(crate) fn cut_after(&self, bytes: usize) {
        let left = &self.links.bytes_left;
        *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    /// Ends every connection and makes none, until it is opened again.
    pub(crate) fn shut(&self, shut: bool) {
        self.links.shut.send_replace(shut);
        if shut {
            self.cut();
        }
    }

    /// How long every packet from now on is under way.
    pub(crate) fn delay(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).expect("a short delay");
        self.links.delay_ms.store(milliseconds, Ordering::Relaxed);
    }

    /// On connections there are and on those to come.
    pub(crate) fn stall(&self, stall: Stall) {
        self.links.stalled.send_replace(stall);
    }

    /// The numbers of the connections there are.
    pub(crate) fn live(&self) -> Vec<usize> {
        let live = self.links.live.lock();
        live.unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect()
    }

    /// How many connections were made so far.
    pub(crate) fn accepted(&self) -> usize {
        self.links.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, links: Arc<Links>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if *links.shut.borrow() {
            continue;
        }
        let number = links.accepted.fetch_add(1, Ordering::Relaxed);
        let links = links.clone();
        connections.spawn(async move {
            let live = || links.live.lock().unwrap_or_else(PoisonError::into_inner);
            live().insert(number);
            carry(client, number, links.clone()).await;
            live().remove(&number);
        });
    }
}

async fn carry(client: TcpStream, number: usize, links: Arc<Links>) {
    let mut cuts = links.cuts.subscribe();
    let mut cut_one = links.cut_one.subscribe();
    // A broker that is away ends the connection.
    let Some(broker) = connect(&links.nodes, number).await else {
        return;
    };
    for stream in [&client, &broker] {
        stream.set_nodelay(true).expect("an option of TCP");
    }
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    tokio::select! {
        () = forward(&links, number, Way::ToBroker, from_client, to_broker) => {}
        () = forward(&links, number, Way::ToClient, from_broker, to_client) => {}
        _ = cuts.changed() => {}
        _ = cut_one.wait_for(|cut| *cut == Some(number)) => {}
    }
}

async fn connect(nodes: &[SocketAddr], number: usize) -> Option<TcpStream> {
    for at in number..number + nodes.len() {
        if let Ok(stream) = TcpStream::connect(nodes[at % nodes.len()]).await {
            return Some(stream);
        }
    }
    None
}

/// Returns when the connection is to end.
async fn forward(
    links: &Links,
    number: usize,
    way: Way,
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) {
    let mut half_closes = links.half_closes[way as usize].subscribe();
    let (queue, mut on_the_way) = mpsc::channel(ON_THE_WAY);
    let taking = async {
        take(links, number, way, from, queue).await;
        // What it took is still under way.
        std::future::pending::<()>().await;
    };
    let giving = async {
        while let Some((due, packet)) = on_the_way.recv().await {
            sleep_until(due).await;
            if !give(links, &packet, &mut to).await {
                return;
            }
        }
    };
    tokio::select! {
        () = taking => {}
        () = giving => return,
        _ = half_closes.changed() => {}
    }
    let _ = to.shutdown().await;
    std::future::pending::<()>().await;
}

/// Reads packets until the connection ends or is to end.
async fn take(
    links: &Links,
    number: usize,
    way: Way,
    mut from: impl AsyncRead + Unpin,
    queue: mpsc::Sender<(Instant, Packet)>,
) {
    let mut stalled = links.stalled.subscribe();
    while let Some(packet) = Packet::read(&mut from).await {
        let passes = stalled.wait_for(|stall| !stall.holds(way)).await.is_ok();
        if !passes {
            return;
        }
        match (links.tap)(number, way, &packet) {
            Verdict::Pass => {}
            Verdict::Cut => return,
            Verdict::Shut => {
                links.shut.send_replace(true);
                return;
            }
        }
        let delay = Duration::from_millis(links.delay_ms.load(Ordering::Relaxed));
        if queue.send((Instant::now() + delay, packet)).await.is_err() {
            return;
        }
    }
    let _ = stalled.wait_for(|stall| *stall == Stall::Nothing).await;
}

/// Writes a packet, or as much of it as still gets through; whether the connection goes on.
async fn give(links: &Links, packet: &Packet, to: &mut (impl AsyncWrite + Unpin)) -> bool {
    let bytes = &packet.bytes[..];
    let passing = {
        let mut left = links
            .bytes_left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match *left {
            Some(few) if few < bytes.len() => {
                *left = None;
                few
            }
            Some(enough) => {
                *left = Some(enough - bytes.len());
                bytes.len()
            }
            None => bytes.len(),
        }
    };
    to.write_all(&bytes[..passing]).await.is_ok() && passing == bytes.len()
}
