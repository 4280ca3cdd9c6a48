//! What a guest says while it runs → messages on `task_log/{id}` and `task_status/{id}`.

use std::sync::Arc;
use std::time::SystemTime;

use crate::envelope::encode::{self, Event, LogLine};
use crate::envelope::topics::Topics;
use crate::mqtt::Publisher;
use crate::runner::Shared;
use crate::sandbox::log::GuestEvents;
use crate::task::Task;

/// Publishes for one task. Logs and progress go at QoS 0 and are bounded by the sandbox.
pub(super) struct Voice {
    topics: Topics,
    publisher: Publisher,
    runner: String,
    task: Task,
}

impl Voice {
    /// For a task that asked to be heard.
    pub(super) fn of(task: &Task, shared: &Shared) -> Option<Arc<Voice>> {
        (task.logs || task.events).then(|| {
            Arc::new(Voice {
                topics: shared.topics.clone(),
                publisher: shared.lanes.publisher(&task.tenant),
                runner: shared.name.clone(),
                task: task.clone(),
            })
        })
    }
}

impl GuestEvents for Voice {
    fn log(&self, level: &'static str, source: &'static str, message: &str) {
        if self.task.logs {
            let line = LogLine {
                level,
                source,
                message: message.to_owned(),
            };
            let message = encode::log(
                &self.topics,
                &self.task.tenant,
                &self.task.id,
                &line,
                SystemTime::now(),
            );
            drop(self.publisher.publish(message));
        }
    }

    fn progress(&self, done: u64, total: u64, message: &str) {
        if self.task.events {
            let event = Event::Progress {
                done,
                total,
                message: message.to_owned(),
            };
            let message = encode::event(
                &self.topics,
                &self.task,
                &self.runner,
                &event,
                SystemTime::now(),
            );
            drop(self.publisher.publish(message));
        }
    }
}
