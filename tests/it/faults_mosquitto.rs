//! The fault trials on mosquitto, which gives a lost runner's tasks to nobody else until that runner is back, and
//! forgets what it has not written down.

use std::time::Duration;

use tokio::time::sleep;

use crate::batch::until;
use crate::faults::{
    self, Fault, Kind, Load, Run, Seen, a_stopped_runner_on, cut_before_the_puback,
    killed_runners_on, rolling_restarts_on, scale, under,
};

/// All is answered soon after the killed runner is back; the verdict's line says how soon.
pub(crate) async fn killed_runners() {
    killed_runners_on("killed runners on mosquitto", Kind::Forgetful).await;
}

pub(crate) async fn rolling_restarts() {
    rolling_restarts_on("rolling restarts on mosquitto", Kind::Forgetful).await;
}

pub(crate) async fn a_stopped_runner() {
    a_stopped_runner_on("stopped runner on mosquitto", Kind::Forgetful).await;
}

pub(crate) async fn links_cut() {
    let load = Load::of(400 * scale());
    let every = Duration::from_millis(300);
    under(
        "links cut on mosquitto",
        Kind::Forgetful,
        load,
        Fault::LinkCut,
        every,
    )
    .await
    .is_whole();
}

/// Ten times in long form. What is lost was the broker's alone, and is named.
async fn killed_broker(name: &'static str, kind: Kind) {
    let mut run = Run::new(name, kind).await;
    run.load(Load::endless());
    run.answered(20).await;
    for _ in 0..2 * scale() {
        sleep(run.chance.time(500..1500)).await;
        faults::strike(&mut run, Fault::BrokerKilled).await;
    }
    sleep(Duration::from_secs(1)).await;
    run.finish().await.is_whole_but_for_the_broker();
}

pub(crate) async fn killed_broker_that_saves_every_change() {
    killed_broker("mosquitto killed, saving every change", Kind::Saving).await;
}

pub(crate) async fn killed_broker_as_installed() {
    killed_broker("mosquitto killed, as installed", Kind::Installed).await;
}

/// The runners hold every task when the broker forgets all of them.
pub(crate) async fn a_broker_that_forgets() {
    // Fewer than the window of one runner, each long enough that most of them wait.
    const TASKS: usize = 40;
    let mut run = Run::new("mosquitto forgets", Kind::Forgetful).await;
    run.load(Load {
        nap_ms: 1000,
        ..Load::of(TASKS)
    });
    run.acknowledged(TASKS).await;
    // What is still in a socket when the connection ends was never a runner's.
    until("all have arrived", || run.witness.delivered() == TASKS).await;
    for link in run.fleet.links() {
        link.shut(true);
    }
    run.broker.kill().await;
    run.consumer.is_away().await;
    run.broker.run().await;
    // It is not the runners' part that somebody listens.
    run.consumer.is_back().await;
    for link in run.fleet.links() {
        link.shut(false);
    }
    run.finish().await.is_whole();
}

pub(crate) async fn cut_before_the_outcome_arrives() {
    let name = "link to mosquitto cut before the outcome's arrival";
    cut_before_the_puback(name, Kind::Forgetful, Seen::Published).await;
}

pub(crate) async fn cut_before_the_outcomes_puback() {
    let name = "link to mosquitto cut before the outcome's PUBACK";
    cut_before_the_puback(name, Kind::Forgetful, Seen::Stored).await;
}
