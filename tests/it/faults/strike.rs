//! The faults, one strike at a time: each is over when its function returns.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use crate::faults::run::Run;
use crate::proxy::{Stall, Way};

/// Longer than a broker waits for a client with a keep-alive of five seconds: one and a half of them.
const BEYOND_THE_KEEP_ALIVE: Duration = Duration::from_secs(12);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// kill -9, and started again.
    RunnerKilled,
    /// SIGSTOP beyond the keep-alive, then SIGCONT.
    RunnerStopped,
    /// SIGTERM, and started again when it has ended.
    RunnerRestarted,
    /// The TCP connection ends.
    LinkCut,
    /// The TCP connection ends in one direction.
    LinkHalfClosed,
    /// The TCP connection ends in the middle of a packet.
    LinkCutInAPacket,
    /// Every packet is under way for long.
    LinkSlow,
    /// Nothing gets through for five seconds, and no connection ends.
    Partition,
    /// kill -9, and started again.
    BrokerKilled,
    /// Ended in good order, and started again.
    BrokerRestarted,
    /// kill -9, and another one goes on.
    SubmitterKilled,
}

/// Strikes one of the runners, the broker or the submitter.
pub(crate) async fn strike(run: &mut Run, fault: Fault) {
    let victim = run.chance.among(0..run.fleet.count());
    match fault {
        Fault::RunnerKilled => {
            run.fleet.kill(victim).await;
            sleep(run.chance.time(0..1000)).await;
            run.fleet.run(victim).await;
        }
        Fault::RunnerStopped => {
            run.fleet.signal(victim, Signal::STOP);
            sleep(BEYOND_THE_KEEP_ALIVE).await;
            run.fleet.signal(victim, Signal::CONT);
        }
        Fault::RunnerRestarted => {
            run.fleet.terminate(victim).await;
            run.fleet.run(victim).await;
        }
        Fault::LinkCut => run.fleet.link(victim).cut(),
        Fault::LinkHalfClosed => {
            let way = [Way::ToBroker, Way::ToClient][run.chance.among(0..2)];
            run.fleet.link(victim).half_close(way);
        }
        Fault::LinkCutInAPacket => {
            let bytes = run.chance.among(0..5000);
            run.fleet.link(victim).cut_after(bytes);
        }
        Fault::LinkSlow => {
            let delay = run.chance.time(50..300);
            run.fleet.link(victim).delay(delay);
            sleep(Duration::from_secs(1)).await;
            run.fleet.link(victim).delay(Duration::ZERO);
        }
        Fault::Partition => {
            run.fleet.link(victim).stall(Stall::Everything);
            sleep(Duration::from_secs(5)).await;
            run.fleet.link(victim).stall(Stall::Nothing);
        }
        Fault::BrokerKilled => {
            run.broker.kill().await;
            sleep(run.chance.time(0..500)).await;
            run.broker.run().await;
        }
        Fault::BrokerRestarted => {
            run.broker.stop().await;
            sleep(run.chance.time(0..500)).await;
            run.broker.run().await;
        }
        Fault::SubmitterKilled => run.kill_submitter().await,
    }
}
