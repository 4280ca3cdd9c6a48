//! A TCP link between a client and a broker that can be cut, can stall, and shows every packet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::packets::Packet;

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
    broker: SocketAddr,
    tap: Box<Tap>,
    stalled: watch::Sender<Stall>,
    /// Counts the cuts.
    cuts: watch::Sender<usize>,
    accepted: AtomicUsize,
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
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let links = Arc::new(Links {
            broker,
            tap: Box::new(tap),
            stalled: watch::Sender::new(Stall::Nothing),
            cuts: watch::Sender::new(0),
            accepted: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, links.clone()));
        Proxy {
            address,
            links,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.links.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// On connections there are and on those to come.
    pub(crate) fn stall(&self, stall: Stall) {
        self.links.stalled.send_replace(stall);
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
        let number = links.accepted.fetch_add(1, Ordering::Relaxed);
        connections.spawn(carry(client, number, links.clone()));
    }
}

async fn carry(client: TcpStream, number: usize, links: Arc<Links>) {
    let mut cuts = links.cuts.subscribe();
    // A broker that is away ends the connection.
    let Ok(broker) = TcpStream::connect(links.broker).await else {
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
    }
}

async fn forward(
    links: &Links,
    number: usize,
    way: Way,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) {
    let mut stalled = links.stalled.subscribe();
    while let Some(packet) = Packet::read(&mut from).await {
        if stalled.wait_for(|stall| !stall.holds(way)).await.is_err()
            || (links.tap)(number, way, &packet) == Verdict::Cut
            || to.write_all(&packet.bytes).await.is_err()
        {
            return;
        }
    }
    let _ = stalled.wait_for(|stall| *stall == Stall::Nothing).await;
}
