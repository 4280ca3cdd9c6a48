//! What a tenant can do that it must not: join the runners, hear others, speak for others, take a session over.

use std::time::Duration;

use crate::config::sections::DEFAULT_CLIENT_ID_PREFIX;
use crate::doctor::{SILENCE, Suspect, Trial, Verdict};
use crate::envelope::Message;
use crate::mqtt::probe::{Answer, Probe};
use crate::mqtt::settings::Settings;

const JOIN: &str = "joins the runners";
const HEAR: &str = "hears others";
const SPEAK: &str = "speaks for others";
const WILL: &str = "last will for others";
const SESSION: &str = "takes sessions over";
const DENIAL: &str = "a denied publish";

impl Trial<'_> {
    pub(super) async fn tenant(&mut self, suspect: &Suspect) -> anyhow::Result<()> {
        let settings = self.settings_of(suspect, "tenant")?;
        match Probe::connect(&settings, true).await {
            Ok(probe) => probe.end().await,
            Err(why) => anyhow::bail!("failed to connect as {:?}: {why}", suspect.credentials.0),
        }
        self.joins(suspect).await?;
        self.hears(suspect).await?;
        self.speaks(suspect).await?;
        self.wills(suspect).await?;
        self.takes_over(suspect).await
    }

    fn settings_of(&self, suspect: &Suspect, name: &str) -> anyhow::Result<Settings> {
        let mut settings = self.settings(name)?;
        settings.client_id = format!("{}-{name}", self.mark);
        settings.credentials = Some(suspect.credentials.clone());
        Ok(settings)
    }

    async fn as_tenant(&self, suspect: &Suspect, name: &str) -> anyhow::Result<Probe> {
        let settings = self.settings_of(suspect, name)?;
        Probe::connect(&settings, true)
            .await
            .map_err(anyhow::Error::msg)
    }

    /// The topics of a tenant that there is not.
    fn of_nobody(&self, name: &str) -> String {
        format!(
            "{}tenants/{}/{name}",
            self.config.mqtt.topic_root, self.mark
        )
    }

    /// In a group of our own, so that nothing is stolen, on the real topics; and in the real group, on topics that
    /// nobody publishes on.
    async fn joins(&mut self, suspect: &Suspect) -> anyhow::Result<()> {
        const MESSAGES: usize = 20;
        let (root, group, mark) = (
            &self.config.mqtt.topic_root,
            &self.config.mqtt.group,
            &self.mark,
        );
        let harmless = format!("$share/{group}/{root}tenants/+/{mark}");
        let filters = [
            format!("$share/{mark}/{root}tenants/+/task_queue"),
            format!("$share/{mark}/{root}task_queue"),
            harmless.clone(),
        ];
        let mut granted = Vec::new();
        for filter in &filters {
            // A broker may close the connection instead of answering.
            let mut probe = self.as_tenant(suspect, "joiner").await?;
            if probe.subscribe(filter).await {
                granted.push(filter.clone());
            }
            probe.end().await;
        }
        if granted.is_empty() {
            self.finds(
                JOIN,
                Verdict::Fine,
                "every shared subscription of the queues is refused",
            );
            return Ok(());
        }
        // What becomes of the runners' tasks then?
        let (mut runner, mut thief) = (
            self.connect("runner").await?,
            self.as_tenant(suspect, "thief").await?,
        );
        let both = runner.subscribe(&harmless).await && thief.subscribe(&harmless).await;
        let mut proof = String::new();
        if both {
            let topic = self.of_nobody(&self.mark);
            let mut publisher = self.connect("producer").await?;
            for number in 0..MESSAGES {
                publisher.publish(&topic, number.to_string(), false).await;
            }
            let left = runner.hear(MESSAGES, SILENCE, true).await.len();
            publisher.end().await;
            proof = format!(": of {MESSAGES} messages the runner beside it got {left}");
        }
        runner.end().await;
        thief.end().await;
        let says = format!(
            "granted {}{proof}. Its tasks would go to the tenant, and be lost",
            granted.join(", ")
        );
        self.finds(JOIN, Verdict::Fatal, says);
        Ok(())
    }

    async fn hears(&mut self, suspect: &Suspect) -> anyhow::Result<()> {
        let root = self.config.mqtt.topic_root.clone();
        let bare = format!("{root}task_status/{}", self.mark);
        let mut secrets = vec![
            self.of_nobody("task_completed"),
            self.of_nobody("task_log/1"),
        ];
        if !suspect.tenant.is_default() {
            secrets.push(bare);
        }
        let mut publisher = self.connect("publisher").await?;
        let mut leaks = Vec::new();
        let filters = [
            "#".to_owned(),
            format!("{root}tenants/+/task_completed"),
            format!("{root}tenants/#"),
            self.of_nobody("#"),
            format!("{root}task_status/#"),
            format!("{root}+/#"),
        ];
        let mut ears = Vec::new();
        for (number, filter) in filters.into_iter().enumerate() {
            if let Ok(mut ear) = self.as_tenant(suspect, &format!("ear-{number}")).await {
                ear.subscribe(&filter).await;
                ears.push((filter, ear));
            }
        }
        let mut published = 0;
        for topic in &secrets {
            published += usize::from(
                publisher.publish(topic, self.mark.clone(), false).await == Answer::Taken,
            );
        }
        publisher.end().await;
        tokio::time::sleep(SILENCE).await;
        for (filter, mut ear) in ears {
            let heard = ear.hear(1000, Duration::from_millis(10), true).await;
            if heard
                .iter()
                .any(|(topic, payload)| secrets.contains(topic) && *payload == self.mark)
            {
                leaks.push(filter);
            }
            ear.end().await;
        }
        match (leaks.is_empty(), published) {
            (true, 0) => self.finds(
                HEAR,
                Verdict::Notice,
                "not tried: nothing could be published for it to hear",
            ),
            (true, _) => self.finds(HEAR, Verdict::Fine, "nothing of another tenant"),
            (false, _) => self.finds(
                HEAR,
                Verdict::Fatal,
                format!("another tenant's messages came on {}", leaks.join(", ")),
            ),
        }
        Ok(())
    }

    async fn speaks(&mut self, suspect: &Suspect) -> anyhow::Result<()> {
        let topics = self.config.topics()?;
        let control = self.of_nobody("task_control/1");
        let module = self.of_nobody("modules/probe");
        // Empty: nothing to be told, and nobody's presence.
        let ended = topics.ended(&self.config.mqtt.group);
        let presence = topics.runner(&self.mark);
        let mut ear = self.connect("ear").await?;
        let filters = [
            format!("{}tenants/+/task_control/+", topics.root()),
            module.clone(),
            ended.clone(),
            presence.clone(),
        ];
        let mut deaf = Vec::new();
        for filter in &filters {
            if !ear.subscribe(filter).await {
                deaf.push(filter.clone());
            }
        }
        let (mut lost, mut said) = (false, Vec::new());
        for (topic, payload) in [
            (&control, self.mark.as_str()),
            (&module, self.mark.as_str()),
            (&ended, ""),
            (&presence, ""),
        ] {
            let mut speaker = self.as_tenant(suspect, "speaker").await?;
            match speaker
                .publish(topic, payload.to_owned(), topic == &module)
                .await
            {
                Answer::Taken => said.push(topic.clone()),
                Answer::Lost => lost = true,
                // Is it still there?
                Answer::Refused(_) => {
                    lost |= speaker.publish(topic, "", false).await == Answer::Lost;
                }
            }
            if topic == &module {
                speaker.publish(topic, "", true).await;
            }
            speaker.end().await;
        }
        let heard = ear.hear(1000, SILENCE, true).await;
        ear.end().await;
        let heard: Vec<&String> = [&control, &module, &ended, &presence]
            .into_iter()
            // On topics that runners use, somebody else may have spoken: then the broker's word must do.
            .filter(|topic| {
                heard.iter().any(|(on, _)| on == *topic)
                    && (*topic != &ended || said.contains(topic))
                    || deaf.contains(topic) && said.contains(topic)
            })
            .collect();
        match heard.is_empty() {
            true => self.finds(
                SPEAK,
                Verdict::Fine,
                "nothing on another tenant's or the runners' topics",
            ),
            false => self.finds(
                SPEAK,
                Verdict::Fatal,
                format!("its messages came on {heard:?}"),
            ),
        }
        match lost {
            true => self.finds(
                DENIAL,
                Verdict::Warning,
                "closes the connection, a runner's too, to which a reply topic can be denied \
                            (mosquitto 2.0: with `max_queued_messages 0`; give a number)",
            ),
            false => self.finds(DENIAL, Verdict::Fine, "leaves the connection as it is"),
        }
        Ok(())
    }

    async fn wills(&mut self, suspect: &Suspect) -> anyhow::Result<()> {
        let topic = self.of_nobody("task_control/2");
        let mut ear = self.connect("ear").await?;
        let filter = format!("{}tenants/+/task_control/+", self.config.mqtt.topic_root);
        let hears = ear.subscribe(&filter).await;
        let mut settings = self.settings_of(suspect, "mortal")?;
        settings.will = Some(Message::new(topic.clone(), self.mark.clone()));
        let refused = match Probe::connect(&settings, true).await {
            Ok(mortal) => {
                mortal.die().await;
                false
            }
            Err(_) => true,
        };
        let heard = ear.hear(1000, SILENCE, true).await;
        ear.end().await;
        let heard = heard.iter().any(|(on, _)| *on == topic);
        match (heard, hears || refused) {
            (true, _) => self.finds(
                WILL,
                Verdict::Fatal,
                format!("its Last Will came on {topic:?}"),
            ),
            (false, true) => self.finds(WILL, Verdict::Fine, "not published"),
            (false, false) => self.finds(
                WILL,
                Verdict::Notice,
                format!("not tried: {filter:?} may not be subscribed"),
            ),
        }
        Ok(())
    }

    async fn takes_over(&mut self, suspect: &Suspect) -> anyhow::Result<()> {
        let mut ours = self.settings("victim")?;
        ours.session_expiry = Duration::from_secs(60);
        let mut victim = Probe::connect(&ours, true)
            .await
            .map_err(anyhow::Error::msg)?;
        let mut theirs = ours.clone();
        theirs.credentials = Some(suspect.credentials.clone());
        let taken = match Probe::connect(&theirs, false).await {
            Ok(thief) => {
                let taken = thief.offers.session_present
                    || victim
                        .publish(&self.of_nobody("task_log/2"), "", false)
                        .await
                        == Answer::Lost;
                thief.end().await;
                taken
            }
            Err(_) => false,
        };
        victim.end().await;
        ours.session_expiry = Duration::ZERO;
        if let Ok(probe) = Probe::connect(&ours, true).await {
            probe.end().await;
        }
        let known = self.config.mqtt.client_id_prefix == DEFAULT_CLIENT_ID_PREFIX;
        match (taken, known) {
            (false, _) => self.finds(
                SESSION,
                Verdict::Fine,
                "a runner's client id is refused to it",
            ),
            (true, false) => self.finds(
                SESSION,
                Verdict::Fine,
                "the broker would let it, but it does not know `mqtt.client_id_prefix`",
            ),
            (true, true) => self.finds(
                SESSION,
                Verdict::Fatal,
                "under a runner's client id it gets the runner's session, and its tasks: \
                        set `mqtt.client_id_prefix` to what nobody guesses",
            ),
        }
        Ok(())
    }
}
