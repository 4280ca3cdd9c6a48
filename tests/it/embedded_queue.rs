//! What the embedded broker promises for the task queue: shared subscriptions, and what waits for them.

use std::collections::BTreeSet;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PubAckReason;
use tokio::time::{sleep, timeout};

use crate::raw_client::{Client, broker, expiry, number, options};
use crate::rig::PATIENCE;

pub(crate) async fn each_group_gets_every_message_once() {
    let broker = broker().await;
    let mut members = Vec::new();
    for (id, group) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        let mut member = Client::new(&broker, id).await;
        member
            .subscribe(&format!("$share/{group}/task_queue"))
            .await;
        member
            .subscribe(&format!("$share/{group}/tenants/+/task_queue"))
            .await;
        members.push(member);
    }
    let mut watcher = Client::new(&broker, "watcher").await;
    watcher.subscribe("#").await;
    let mut producer = Client::new(&broker, "producer").await;
    producer.publish_numbers("task_queue", 0..100).await;
    producer
        .publish_numbers("tenants/t/task_queue", 100..200)
        .await;
    let all: Vec<u32> = (0..200).collect();
    assert_eq!(watcher.take_all(200).await, all);
    assert_eq!(members[2].take_all(200).await, all);
    let (mut group, mut shares) = (BTreeSet::new(), [0, 0]);
    let (first, second) = members.split_at_mut(1);
    while group.len() < 200 {
        let (member, publish) = tokio::select! {
            publish = first[0].next() => (0, publish),
            publish = second[0].next() => (1, publish),
        };
        shares[member] += 1;
        assert!(group.insert(number(&publish)), "to one of them only");
    }
    first[0].nothing().await;
    second[0].nothing().await;
    assert!(shares.iter().all(|share| *share > 20), "{shares:?}");
    broker.stop().await;
}

/// Session expiry 0, and a session that outlives its connection a moment.
async fn a_dead_members_messages_go_to_another(expiry: u32, window: u16) {
    let broker = broker().await;
    let mut doomed = Client::manual(&broker, "doomed", expiry, window).await;
    doomed.subscribe("$share/g/task_queue").await;
    let mut other = Client::manual(&broker, "other", 0, 1000).await;
    other.subscribe("$share/g/task_queue").await;
    let mut producer = Client::new(&broker, "producer").await;
    producer.publish_numbers("task_queue", 0..1000).await;
    doomed.next().await;
    doomed.die().await;
    let distinct: BTreeSet<u32> = other.take_all(1000).await.into_iter().collect();
    assert_eq!(distinct.len(), 1000, "doubled");
    broker.stop().await;
}

pub(crate) async fn a_dead_members_messages_go_to_another_at_once() {
    a_dead_members_messages_go_to_another(0, 500).await;
}

pub(crate) async fn a_dead_members_small_window_goes_to_another_at_once() {
    a_dead_members_messages_go_to_another(0, 50).await;
}

pub(crate) async fn an_expired_sessions_messages_go_to_another() {
    a_dead_members_messages_go_to_another(1, 500).await;
}

pub(crate) async fn a_plain_subscribers_death_resends_nothing() {
    let broker = broker().await;
    let mut doomed = Client::manual(&broker, "doomed", 0, 10).await;
    doomed.subscribe("task_completed").await;
    let mut other = Client::new(&broker, "other").await;
    other.subscribe("task_completed").await;
    let mut producer = Client::new(&broker, "producer").await;
    producer.publish_numbers("task_completed", 0..20).await;
    other.take(20).await;
    doomed.die().await;
    other.nothing().await;
    broker.stop().await;
}

pub(crate) async fn nothing_is_lost_while_members_come_and_go_under_load() {
    const TASKS: u32 = 20_000;
    let broker = broker().await;
    let mut steady = Client::manual(&broker, "steady", 0, 20).await;
    steady.subscribe("$share/g/task_queue").await;
    let mut producer = Client::new(&broker, "producer").await;
    let producing = tokio::spawn(async move {
        for chunk in 0..TASKS / 100 {
            producer
                .publish_numbers("task_queue", chunk * 100..(chunk + 1) * 100)
                .await;
        }
    });
    let address = broker.address();
    // Every third takes over its own living connection, with a clean start or without; every third lives on a while.
    let churning = tokio::spawn(async move {
        for round in 0..60u32 {
            let mut mortal = options(address, &format!("mortal{}", round % 3));
            mortal
                .set_manual_acks(true)
                .set_clean_start(round % 2 == 0)
                .set_receive_maximum(Some(30));
            mortal.set_session_expiry_interval(Some(round % 3));
            let Ok(mut mortal) = Client::try_with(mortal).await else {
                continue;
            };
            mortal.subscribe("$share/g/task_queue").await;
            sleep(Duration::from_millis(u64::from(round % 7) * 5)).await;
            if round % 3 == 1 {
                tokio::spawn(async move {
                    sleep(Duration::from_millis(40)).await;
                    mortal.die().await;
                });
            } else {
                mortal.die().await;
            }
        }
    });
    let mut got = BTreeSet::new();
    let mut taken = 0;
    while got.len() < TASKS as usize {
        match timeout(PATIENCE, steady.publishes.recv()).await {
            Ok(Some(publish)) => {
                taken += 1;
                got.insert(number(&publish));
                steady.ack(&publish).await;
            }
            _ => break,
        }
    }
    producing.await.expect("producer");
    churning.await.expect("churn");
    assert_eq!(
        (got.len(), taken),
        (TASKS as usize, TASKS),
        "distinct, taken"
    );
    broker.stop().await;
}

pub(crate) async fn a_member_has_no_more_in_hand_than_its_window_and_the_idle_help() {
    let broker = broker().await;
    let mut slow = Client::manual(&broker, "slow", 0, 5).await;
    slow.subscribe("$share/g/task_queue").await;
    let mut producer = Client::new(&broker, "producer").await;
    producer.publish_numbers("task_queue", 0..100).await;
    let mut fast = Client::manual(&broker, "fast", 0, 10).await;
    fast.subscribe("$share/g/task_queue").await;
    assert_eq!(fast.take_all(95).await, (5..100).collect::<Vec<_>>());
    for n in 0..5 {
        assert_eq!(slow.next_number().await, n);
    }
    slow.nothing().await;
    broker.stop().await;
}

pub(crate) async fn a_slow_members_share_is_small() {
    let broker = broker().await;
    let mut slow = Client::manual(&broker, "slow", 0, 1000).await;
    let mut fast = Client::manual(&broker, "fast", 0, 1000).await;
    slow.subscribe("$share/g/task_queue").await;
    fast.subscribe("$share/g/task_queue").await;
    let mut producer = Client::new(&broker, "producer").await;
    let mut stuck = 0;
    for n in 0..100 {
        producer.publish("task_queue", n.to_string()).await;
        tokio::select! {
            publish = fast.next() => {
                fast.ack(&publish).await;
                // The acknowledgement is at the broker before the next message.
                fast.publish("elsewhere", "").await;
            }
            _ = slow.next() => stuck += 1,
        }
    }
    assert!(stuck <= 3, "{stuck}");
    broker.stop().await;
}

pub(crate) async fn messages_that_nobody_takes_are_parked_in_order() {
    let broker = broker().await;
    let mut producer = Client::new(&broker, "producer").await;
    producer.publish_numbers("task_queue", 0..200).await;
    producer
        .client
        .publish("task_queue", QoS::AtMostOnce, false, "200")
        .await
        .expect("publish");
    producer.publish_numbers("task_queue", 201..300).await;
    producer
        .publish_numbers("tenants/t/task_queue", 1000..1010)
        .await;
    producer
        .publish_with("task_queue", false, "666", expiry(1))
        .await;
    producer.publish_numbers("elsewhere", 0..10).await;
    let mut watcher = Client::new(&broker, "watcher").await;
    watcher.subscribe("#").await;
    watcher.nothing().await;
    sleep(Duration::from_millis(2000)).await;

    let mut member = Client::manual(&broker, "member", 0, 20).await;
    member.subscribe("$share/g/elsewhere").await;
    member.nothing().await;
    member.subscribe("$share/g/task_queue").await;
    assert_eq!(member.take_all(300).await, (0..300).collect::<Vec<_>>());
    producer.publish_numbers("task_queue", 300..310).await;
    assert_eq!(member.take_all(10).await, (300..310).collect::<Vec<_>>());
    member.subscribe("$share/g/tenants/+/task_queue").await;
    assert_eq!(member.take_all(10).await, (1000..1010).collect::<Vec<_>>());
    broker.stop().await;
}

pub(crate) async fn the_last_members_messages_are_parked_when_it_dies() {
    let broker = broker().await;
    let mut producer = Client::new(&broker, "producer").await;
    for round in 0..3 {
        let mut doomed = Client::manual(&broker, &format!("doomed{round}"), 0, 50).await;
        doomed.subscribe("$share/g/task_queue").await;
        producer
            .publish_numbers("task_queue", round * 100..(round + 1) * 100)
            .await;
        assert_eq!(doomed.next_number().await, 0);
        doomed.die().await;
        sleep(Duration::from_millis(100)).await;
    }
    producer.publish_numbers("task_queue", 300..400).await;
    // Another group's name will do: nobody else has taken them.
    let mut last = Client::manual(&broker, "last", 0, 50).await;
    last.subscribe("$share/other/task_queue").await;
    assert_eq!(last.take_all(400).await, (0..400).collect::<Vec<_>>());
    broker.stop().await;
}

pub(crate) async fn a_groups_messages_wait_for_it_while_another_group_is_served() {
    let broker = broker().await;
    let mut doomed = Client::manual(&broker, "doomed", 0, 50).await;
    doomed.subscribe("$share/runners/task_queue").await;
    let mut audit = Client::manual(&broker, "audit", 0, 1000).await;
    audit.subscribe("$share/audit/task_queue").await;
    let mut producer = Client::new(&broker, "producer").await;
    producer.publish_numbers("task_queue", 0..100).await;
    audit.take(100).await;
    doomed.die().await;
    audit.nothing().await;
    let mut next = Client::manual(&broker, "next", 0, 50).await;
    next.subscribe("$share/runners/task_queue").await;
    assert_eq!(next.take_all(100).await, (0..100).collect::<Vec<_>>());
    audit.nothing().await;
    broker.stop().await;
}

pub(crate) async fn a_member_that_is_away_finds_everything_when_it_returns() {
    let broker = broker().await;
    let mut member = Client::manual(&broker, "member", 300, 50).await;
    member.subscribe("$share/g/task_queue").await;
    let mut producer = Client::new(&broker, "producer").await;
    producer.publish_numbers("task_queue", 0..100).await;
    assert_eq!(member.next_number().await, 0);
    member.die().await;
    sleep(Duration::from_millis(100)).await;
    producer.publish_numbers("task_queue", 100..200).await;
    let mut member = Client::manual(&broker, "member", 300, 50).await;
    assert!(member.connack.session_present);
    let got = member.take_all(200).await;
    assert_eq!(
        got.iter().copied().collect::<BTreeSet<_>>(),
        (0..200).collect()
    );
    broker.stop().await;
}

pub(crate) async fn what_is_sent_while_a_member_is_away_goes_to_one_that_comes() {
    let broker = broker().await;
    let mut away = Client::manual(&broker, "away", 300, 50).await;
    away.subscribe("$share/g/task_queue").await;
    away.die().await;
    sleep(Duration::from_millis(100)).await;
    let mut producer = Client::new(&broker, "producer").await;
    producer.publish_numbers("task_queue", 0..200).await;
    let mut other = Client::manual(&broker, "other", 0, 50).await;
    other.subscribe("$share/g/task_queue").await;
    assert_eq!(other.take_all(200).await, (0..200).collect::<Vec<_>>());
    broker.stop().await;
}

pub(crate) async fn a_clean_start_gives_the_old_sessions_messages_back() {
    let broker = broker().await;
    let mut old = Client::manual(&broker, "same", 300, 50).await;
    old.subscribe("$share/g/task_queue").await;
    let mut producer = Client::new(&broker, "producer").await;
    producer.publish_numbers("task_queue", 0..100).await;
    // The old connection is still up: half of the crashes look like this to a broker.
    let mut new = Client::manual(&broker, "same", 0, 50).await;
    new.nothing().await;
    new.subscribe("$share/g/task_queue").await;
    assert_eq!(new.take_all(100).await, (0..100).collect::<Vec<_>>());
    drop(old);
    broker.stop().await;
}

pub(crate) async fn a_message_too_large_for_a_member_is_discarded_and_kills_nobody() {
    let broker = broker().await;
    let mut small = options(broker.address(), "small");
    small.set_max_packet_size(Some(1000));
    let mut small = Client::with(small).await;
    small.subscribe("$share/g/task_queue").await;
    let mut producer = Client::new(&broker, "producer").await;
    for size in 900..1010 {
        assert_eq!(
            producer.publish("task_queue", vec![b'x'; size]).await,
            PubAckReason::Success
        );
    }
    producer.publish("task_queue", "1").await;
    let mut largest = 0;
    loop {
        let publish = small.next().await;
        if publish.payload == "1" {
            break;
        }
        largest = publish.payload.len();
    }
    assert!(small.ended.is_empty());
    assert!((960..1000).contains(&largest), "{largest}");
    broker.stop().await;
}
