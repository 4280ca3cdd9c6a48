//! Whether a broker is fit for runners: shares, QoS 1, retained messages, sessions that keep tasks.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::doctor::{SILENCE, Trial, Verdict};
use crate::envelope::Message;
use crate::mqtt::probe::{Answer, Probe};

/// More than mosquitto queues by default.
const MANY: usize = 1_200;
/// Longer than between two messages on their way.
const INSTANT: Duration = Duration::from_millis(20);
/// The window that is to be honoured.
const WINDOW: u16 = 5;

impl Trial<'_> {
    /// What a runner needs; all of it, or what takes no time.
    pub(super) async fn fitness(&mut self, all: bool) -> anyhow::Result<()> {
        let mut probe = self.connect("one").await?;
        let offers = probe.offers.clone();
        self.finds("connection", Verdict::Fine, "MQTT 5, as configured");
        self.offered(
            "qos 1",
            offers.qos_1,
            Verdict::Fatal,
            "tasks would be lost on the way",
        );
        self.offered(
            "wildcards",
            offers.wildcards,
            Verdict::Fatal,
            "runners hear of every tenant by them",
        );
        let retained = if self.config.modules.published {
            Verdict::Fatal
        } else {
            Verdict::Warning
        };
        self.packet_size(offers.max_packet_bytes);
        if !offers.shared {
            self.finds(
                "shared subscriptions",
                Verdict::Fatal,
                "there are none: every runner would run every task",
            );
        } else {
            self.shares(&mut probe).await?;
        }
        if offers.retained {
            self.retains(&mut probe, retained).await?;
        } else {
            let says = "not offered: modules and presence are retained";
            self.finds("retained messages", retained, says);
        }
        probe.end().await;
        if all && offers.shared {
            self.last_will().await?;
            self.redelivery().await?;
            self.queue().await?;
            self.window().await?;
            let says = "whether sessions and retained messages survive a restart or a kill cannot be seen from outside: \
                        mosquitto wants `persistence true`, `autosave_interval 1`, `autosave_on_changes true`";
            self.finds("persistence", Verdict::Notice, says);
        }
        Ok(())
    }

    fn offered(&mut self, check: &'static str, there: bool, without: Verdict, why: &str) {
        match there {
            true => self.finds(check, Verdict::Fine, "offered"),
            false => self.finds(check, without, format!("not offered: {why}")),
        }
    }

    fn packet_size(&mut self, max: Option<u32>) {
        let ours = self.config.mqtt.max_packet_bytes;
        match max {
            Some(max) if max < ours => {
                let says = format!(
                    "{max} bytes at most, `mqtt.max_packet_bytes` is {ours}: larger modules and outcomes are refused"
                );
                self.finds("packet size", Verdict::Warning, says);
            }
            Some(max) => self.finds("packet size", Verdict::Fine, format!("{max} bytes")),
            None => self.finds("packet size", Verdict::Fine, "no limit of its own"),
        }
    }

    fn topic(&self, name: &str) -> anyhow::Result<String> {
        let topics = self.config.topics()?;
        Ok(topics.probe(&format!("{}/{name}", self.mark)))
    }

    fn share(&self, topic: &str) -> String {
        format!("$share/{}/{topic}", self.config.mqtt.group)
    }

    /// Two members: each message to one of them.
    async fn shares(&mut self, publisher: &mut Probe) -> anyhow::Result<()> {
        const MESSAGES: usize = 20;
        let check = "shared subscriptions";
        let topic = self.topic("share")?;
        let filter = self.share(&topic);
        let (mut one, mut two) = (
            self.connect("member-1").await?,
            self.connect("member-2").await?,
        );
        if !one.subscribe(&filter).await || !two.subscribe(&filter).await {
            let says = format!(
                "not tried: the subscription {filter:?} is refused, which a runner's own may not be"
            );
            self.finds(check, Verdict::Notice, says);
            return Ok(());
        }
        for number in 0..MESSAGES {
            let answer = publisher.publish(&topic, number.to_string(), false).await;
            if answer != Answer::Taken {
                self.finds(
                    check,
                    Verdict::Notice,
                    format!("not tried: a publish on {topic:?} was {answer:?}"),
                );
                return Ok(());
            }
        }
        let (mut of_one, mut of_two) = (0, 0);
        let deadline = Instant::now() + SILENCE;
        while of_one + of_two < MESSAGES && Instant::now() < deadline {
            of_one += one.hear(MESSAGES, INSTANT, true).await.len();
            of_two += two.hear(MESSAGES, INSTANT, true).await.len();
        }
        of_one += one.hear(MESSAGES, INSTANT, true).await.len();
        of_two += two.hear(MESSAGES, INSTANT, true).await.len();
        one.end().await;
        two.end().await;
        let (verdict, what) = match of_one + of_two {
            MESSAGES => (Verdict::Fine, "each message went to one of two members"),
            more if more > MESSAGES => (
                Verdict::Fatal,
                "members get the same message: tasks would run more than once",
            ),
            _ => (Verdict::Fatal, "messages are lost between two members"),
        };
        self.finds(
            check,
            verdict,
            format!("{what} ({of_one} and {of_two} of {MESSAGES})"),
        );
        Ok(())
    }

    async fn retains(&mut self, probe: &mut Probe, without: Verdict) -> anyhow::Result<()> {
        let topic = self.topic("retained")?;
        let answer = probe.publish(&topic, "kept", true).await;
        let mut late = self.connect("late").await?;
        let heard = late.subscribe(&topic).await && !late.hear(1, SILENCE, true).await.is_empty();
        probe.publish(&topic, "", true).await;
        late.end().await;
        match (answer, heard) {
            (Answer::Taken, true) => self.finds(
                "retained messages",
                Verdict::Fine,
                "kept for who comes later",
            ),
            (Answer::Taken, false) => {
                self.finds("retained messages", without, "taken, but not kept")
            }
            (other, _) => self.finds(
                "retained messages",
                Verdict::Notice,
                format!("not tried: the publish was {other:?}"),
            ),
        }
        Ok(())
    }

    async fn last_will(&mut self) -> anyhow::Result<()> {
        let topic = self.topic("will")?;
        let mut ear = self.connect("ear").await?;
        ear.subscribe(&topic).await;
        let mut settings = self.settings("mortal")?;
        settings.will = Some(Message::new(topic, "gone"));
        let said = match Probe::connect(&settings, true).await {
            Err(why) => format!("refused: {why}"),
            Ok(mortal) => {
                mortal.die().await;
                match ear.hear(1, SILENCE * 4, true).await.is_empty() {
                    false => String::new(),
                    true => "not published".to_owned(),
                }
            }
        };
        ear.end().await;
        match said.is_empty() {
            true => self.finds(
                "last will",
                Verdict::Fine,
                "published when a connection is lost",
            ),
            false => self.finds(
                "last will",
                Verdict::Warning,
                format!("{said}: a lost runner would look alive"),
            ),
        }
        Ok(())
    }

    /// A member dies with messages in hand and comes back: does it get them?
    async fn redelivery(&mut self) -> anyhow::Result<()> {
        const MESSAGES: usize = 10;
        let check = "redelivery";
        let topic = self.topic("redelivery")?;
        let mut settings = self.settings("worker")?;
        settings.session_expiry = Duration::from_secs(60);
        let mut publisher = self.connect("publisher").await?;
        let Some(mut worker) = self.member(&settings, &topic).await? else {
            return Ok(());
        };
        let numbers = async |publisher: &mut Probe, numbers: std::ops::Range<usize>| {
            for number in numbers {
                publisher.publish(&topic, number.to_string(), false).await;
            }
        };
        numbers(&mut publisher, 0..MESSAGES).await;
        let had = worker.hear(MESSAGES, SILENCE, false).await.len();
        worker.die().await;
        numbers(&mut publisher, MESSAGES..2 * MESSAGES).await;
        let mut worker = Probe::connect(&settings, false)
            .await
            .map_err(anyhow::Error::msg)?;
        let kept = worker.offers.session_present;
        worker.subscribe(&self.share(&topic)).await;
        let again = distinct(worker.hear(2 * MESSAGES, SILENCE * 2, true).await);
        self.ends(worker, &settings).await;
        publisher.end().await;
        let in_hand = (0..MESSAGES)
            .filter(|number| again.contains(&number.to_string()))
            .count();
        let while_away = again.len() - in_hand;
        let counts = format!(
            "{in_hand} of {had} that it had in hand, {while_away} of {MESSAGES} published while it was away"
        );
        if again.len() == 2 * MESSAGES {
            self.finds(
                check,
                Verdict::Fine,
                format!("a worker that died and came back got {counts}"),
            );
        } else {
            let kept = if kept { "kept" } else { "not kept" };
            self.finds(
                check,
                Verdict::Fatal,
                format!("a worker that died and came back got {counts} (its session was {kept})"),
            );
        }
        Ok(())
    }

    /// How much waits for a member that is away.
    async fn queue(&mut self) -> anyhow::Result<()> {
        let topic = self.topic("queue")?;
        let mut settings = self.settings("sleeper")?;
        settings.session_expiry = Duration::from_secs(60);
        let mut publisher = self.connect("producer").await?;
        let Some(sleeper) = self.member(&settings, &topic).await? else {
            return Ok(());
        };
        sleeper.die().await;
        let mut taken = 0;
        for number in 0..MANY {
            let answer = publisher.publish(&topic, number.to_string(), false).await;
            taken += usize::from(answer == Answer::Taken);
        }
        let mut sleeper = Probe::connect(&settings, false)
            .await
            .map_err(anyhow::Error::msg)?;
        sleeper.subscribe(&self.share(&topic)).await;
        let waited = distinct(sleeper.hear(taken, SILENCE, true).await).len();
        self.ends(sleeper, &settings).await;
        publisher.end().await;
        if waited == taken {
            self.finds(
                "queue",
                Verdict::Fine,
                format!("{waited} messages waited for a worker that was away"),
            );
        } else {
            let says = format!(
                "{taken} messages were acknowledged while a worker was away, and {waited} waited: tasks are lost \
                                (mosquitto: `max_queued_messages 10000000`)"
            );
            self.finds("queue", Verdict::Warning, says);
        }
        Ok(())
    }

    async fn window(&mut self) -> anyhow::Result<()> {
        let topic = self.topic("window")?;
        let mut settings = self.settings("narrow")?;
        settings.receive_maximum = WINDOW;
        let mut publisher = self.connect("pusher").await?;
        let Some(mut narrow) = self.member(&settings, &topic).await? else {
            return Ok(());
        };
        for number in 0..4 * WINDOW {
            publisher.publish(&topic, number.to_string(), false).await;
        }
        let got = narrow
            .hear(4 * usize::from(WINDOW), SILENCE / 2, false)
            .await
            .len();
        narrow.end().await;
        publisher.end().await;
        match got <= WINDOW.into() {
            true => self.finds("receive maximum", Verdict::Fine, "honoured"),
            false => self.finds("receive maximum", Verdict::Notice, format!("{WINDOW} asked for, {got} sent at once: the broker does not heed a runner's prefetch")),
        }
        Ok(())
    }

    /// The only member of a group on a topic.
    async fn member(
        &mut self,
        settings: &crate::mqtt::settings::Settings,
        topic: &str,
    ) -> anyhow::Result<Option<Probe>> {
        let mut member = Probe::connect(settings, true)
            .await
            .map_err(anyhow::Error::msg)?;
        let filter = self.share(topic);
        if member.subscribe(&filter).await {
            return Ok(Some(member));
        }
        member.end().await;
        Ok(None)
    }

    /// Its session too.
    async fn ends(&self, probe: Probe, settings: &crate::mqtt::settings::Settings) {
        probe.end().await;
        let mut settings = settings.clone();
        settings.session_expiry = Duration::ZERO;
        if let Ok(probe) = Probe::connect(&settings, true).await {
            probe.end().await;
        }
    }
}

fn distinct(heard: Vec<(String, bytes::Bytes)>) -> HashSet<String> {
    let payloads = heard
        .iter()
        .map(|(_, payload)| String::from_utf8_lossy(payload).into_owned());
    payloads.collect()
}
