//! One lane: a connection with a window and a subscription of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc;

use crate::mqtt::settings::Settings;
use crate::mqtt::{self, Delivery, Publisher, State};
use crate::runner::start::{ready, tell_failure};

/// So long a connection must have been up, or an unfilled window unfilled, to say that nothing older is on its way.
pub(super) const SETTLED: Duration = Duration::from_secs(2);
/// How often that is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(super) struct Lane {
    pub(super) publisher: Publisher,
    /// What it is remembered by.
    pub(super) name: String,
    pub(super) filter: String,
    pub(super) client_id: String,
    window: usize,
    /// Everything that came before this lane was subscribed has come over the others' lane. Another one each time that
    /// the lane is opened.
    handed_over: Arc<AtomicBool>,
}

impl Lane {
    /// Connects, and subscribes what the settings' filters say.
    pub(super) fn connect(
        name: &str,
        filter: String,
        mut settings: Settings,
        window: u16,
        inbox: mpsc::UnboundedSender<Delivery>,
    ) -> Lane {
        settings.receive_maximum = window;
        settings.send_maximum = window.saturating_mul(2).max(100);
        Lane {
            name: name.to_owned(),
            client_id: settings.client_id.clone(),
            publisher: mqtt::connect_into(settings, inbox),
            filter,
            window: window.into(),
            handed_over: Arc::default(),
        }
    }

    /// One that does nothing but publish.
    #[cfg(test)]
    pub(super) fn made_up(publisher: Publisher) -> Lane {
        Lane {
            publisher,
            name: String::new(),
            filter: String::new(),
            client_id: String::new(),
            window: 1,
            handed_over: Arc::default(),
        }
    }

    pub(super) async fn ready(&self, failures: &mpsc::UnboundedSender<String>) -> Result<()> {
        ready(&self.publisher).await?;
        tell_failure(&self.publisher, failures);
        Ok(())
    }

    /// As a lane that was opened just now.
    pub(super) fn opened(self, handed_over: bool) -> Lane {
        Lane {
            handed_over: Arc::new(handed_over.into()),
            ..self
        }
    }

    /// Whether both were opened at the same time.
    pub(super) fn is(&self, other: &Lane) -> bool {
        Arc::ptr_eq(&self.handed_over, &other.handed_over)
    }

    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    pub(super) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_online(&self) -> bool {
        self.publisher.online_for().is_some()
    }

    /// Whether it has been up for a while.
    pub(super) fn is_settled(&self) -> bool {
        self.publisher.online_for().is_some_and(|up| up > SETTLED)
    }

    /// Whether the broker may have sent more.
    pub(super) fn has_room(&self) -> bool {
        self.publisher.unanswered() < self.window
    }

    /// Takes no more, and waits until everything that came is answered, and for a while nothing more came. False when it
    /// was closed before.
    pub(super) async fn drained(&self) -> bool {
        self.publisher.unsubscribe(&self.filter);
        let state = self.publisher.state();
        let (mut since, mut was_online) = (Instant::now(), true);
        while since.elapsed() <= SETTLED {
            tokio::time::sleep(LOOK).await;
            if matches!(*state.borrow(), State::Closed | State::Failed(_)) {
                return false;
            }
            let is_online = self.is_online();
            if is_online && !was_online {
                // The broker may not have heard it.
                self.publisher.unsubscribe(&self.filter);
            }
            if !(is_online && was_online) || self.publisher.unanswered() > 0 {
                since = Instant::now();
            }
            was_online = is_online;
        }
        true
    }
}
