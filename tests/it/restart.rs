//! Mosquitto restarted, links to it cut, and names taken over on it.

use std::time::Duration;

use wasmqtt::config::Config;
use wasmqtt_tests::guests;

use crate::batch::{self, Answers};
use crate::proxy::Proxy;
use crate::reconnect::two_of_one_name;
use crate::rig::{Ear, Rig, config};
use crate::stock::Mosquitto;

/// A few milliseconds of a guest.
const SHORT: &str = "1000000";

/// A runner whose session the broker keeps, and an ear that misses nothing.
async fn rig(broker: &Mosquitto, url: &str) -> Rig {
    let mut config: Config = config(url);
    config.mqtt.session_expiry_s = 3600;
    let rig = Rig::heard_by(Ear::lasting(&broker.url()).await, config).await;
    rig.push("burn", guests::BURN).await;
    rig
}

pub(crate) async fn the_broker_is_restarted_in_the_middle() {
    const TASKS: usize = 1000;
    let mut broker = Mosquitto::persistent().await;
    let mut rig = rig(&broker, &broker.url()).await;
    batch::publish(&rig.ear, "burn", SHORT, TASKS).await;
    let mut answers = Answers::default();
    for restarts in 1..=2 {
        answers.until(&mut rig.ear, restarts * 200).await;
        broker.stop().await;
        // Away for long enough that a few attempts to connect fail.
        tokio::time::sleep(Duration::from_millis(500)).await;
        broker.run().await;
    }
    answers.all(&mut rig.ear, TASKS, "broker restarted").await;
    rig.end().await;
}

pub(crate) async fn the_link_is_cut_again_and_again() {
    const TASKS: usize = 300;
    let broker = Mosquitto::start().await;
    let proxy = Proxy::start(([127, 0, 0, 1], broker.port.number).into()).await;
    let mut rig = rig(&broker, &proxy.url()).await;
    batch::publish(&rig.ear, "burn", SHORT, TASKS).await;
    let mut answers = Answers::default();
    for cuts in 1..=5 {
        answers.until(&mut rig.ear, cuts * 50).await;
        proxy.cut();
    }
    answers.all(&mut rig.ear, TASKS, "link cut").await;
    rig.end().await;
}

pub(crate) async fn two_runners_of_one_name_lose_nothing() {
    let broker = Mosquitto::start().await;
    two_of_one_name(&broker.url(), 3600).await;
}
