//! Tasks that recur: which of their times are due. Pure: time is a value.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use croner::Cron;
use croner::parser::CronParser;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use crate::task::{ModuleRef, TaskId, quoted, tenant::TenantId};

/// A time that passed so long ago was missed: nobody was there to submit it.
pub const MISSED_AFTER: Duration = Duration::from_secs(60);
/// The most missed times that are made up for.
const MAX_MISSED: usize = 1000;
/// The longest name: with the due time behind it, it is a task's id.
const MAX_NAME: usize = 48;

/// What becomes of times that passed while no runner was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// Nothing.
    #[default]
    Skip,
    /// The last of them is submitted.
    Last,
    /// All of them are submitted, a thousand at most.
    All,
}

/// A task that recurs.
#[derive(Debug, Clone)]
pub struct Recurring {
    /// Its name, and the head of its tasks' ids.
    pub name: String,
    /// Whose task it is.
    pub tenant: TenantId,
    /// What it runs.
    pub module: ModuleRef,
    /// On what.
    pub input: String,
    /// What becomes of missed times.
    pub missed: Missed,
    cron: Cron,
    zone: TimeZone,
}

impl Recurring {
    /// `cron` has five fields, or six with seconds in front; `zone` is a name of the IANA time zone database.
    pub fn new(
        name: &str,
        cron: &str,
        zone: &str,
        tenant: TenantId,
        module: ModuleRef,
        input: String,
        missed: Missed,
    ) -> Result<Recurring, String> {
        if name.len() > MAX_NAME || TaskId::parse(name).is_err() {
            return Err(format!(
                "a name is 1 to {MAX_NAME} characters of [A-Za-z0-9_-], got {}",
                quoted(name)
            ));
        }
        let parsed = CronParser::new().parse(cron);
        let cron = parsed.map_err(|error| format!("`cron` {}: {error}", quoted(cron)))?;
        let zone = TimeZone::get(zone).map_err(|error| format!("`timezone`: {error}"))?;
        Ok(Recurring {
            name: name.to_owned(),
            tenant,
            module,
            input,
            missed,
            cron,
            zone,
        })
    }

    /// The first time after this one; `None` when there is none.
    pub fn next(&self, after: SystemTime) -> Option<SystemTime> {
        let after = Zoned::new(Timestamp::try_from(after).ok()?, self.zone.clone());
        let next = self.cron.find_next_occurrence(&after, false).ok()?;
        Some(next.timestamp().into())
    }

    /// The times after `last` and up to `now` that are to be submitted, oldest first.
    pub fn due(&self, last: SystemTime, now: SystemTime) -> Vec<SystemTime> {
        // Backwards, so that a long absence costs no more than what is wanted of it.
        let (most, oldest) = match self.missed {
            Missed::All => (MAX_MISSED, last),
            Missed::Last => (1, last),
            Missed::Skip => (MAX_MISSED, last.max(now - MISSED_AFTER)),
        };
        let mut times = VecDeque::new();
        let mut next = self.last(now, true);
        while let Some(time) = next.filter(|time| *time > oldest && times.len() < most) {
            times.push_front(time);
            next = self.last(time, false);
        }
        times.into()
    }

    /// The last time before this one, or at it.
    fn last(&self, before: SystemTime, inclusive: bool) -> Option<SystemTime> {
        let before = Zoned::new(Timestamp::try_from(before).ok()?, self.zone.clone());
        let last = self
            .cron
            .find_previous_occurrence(&before, inclusive)
            .ok()?;
        Some(last.timestamp().into())
    }

    /// The id of the task of one time: a second submission is the same task.
    pub fn task_id(&self, due: SystemTime) -> TaskId {
        let id = format!("{}-{}", self.name, seconds(due));
        // The name was checked, and the seconds of any clock fit behind it.
        TaskId::parse(&id).unwrap_or_else(|_| TaskId::generate())
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recurring(cron: &str, zone: &str, missed: Missed) -> Result<Recurring, String> {
        let module = ModuleRef::parse("m").expect("a module");
        Recurring::new(
            "nightly",
            cron,
            zone,
            TenantId::default(),
            module,
            String::new(),
            missed,
        )
    }

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().expect("a time").into()
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let nightly = recurring("30 2 * * *", "Europe/Berlin", Missed::All).expect("a task");
        let due = nightly.due(at("2026-06-01T00:00:00Z"), at("2026-06-03T00:00:00Z"));
        assert_eq!(
            due,
            [at("2026-06-01T00:30:00Z"), at("2026-06-02T00:30:00Z")]
        );
        let id = nightly.task_id(due[0]).to_string();
        assert_eq!(id, "nightly-1780273800");
        // The hour that the clock leaps over in spring.
        let due = nightly.due(at("2026-03-28T12:00:00Z"), at("2026-03-29T12:00:00Z"));
        assert_eq!(due.len(), 1, "{due:?}");
    }

    #[test]
    fn missed_times_as_configured() {
        let (last, now) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:10:30Z"));
        let due = |missed| {
            recurring("* * * * *", "UTC", missed)
                .expect("a task")
                .due(last, now)
        };
        assert_eq!(due(Missed::All).len(), 10);
        assert_eq!(due(Missed::Last), [at("2026-01-01T00:10:00Z")]);
        assert_eq!(
            due(Missed::Skip),
            [at("2026-01-01T00:10:00Z")],
            "on time is not missed"
        );
        let later = at("2026-01-01T00:10:59Z");
        let hourly = recurring("5 * * * *", "UTC", Missed::Skip).expect("a task");
        assert!(hourly.due(last, later).is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (cron, zone, wrong) in [
            ("* * * *", "UTC", "`cron`"),
            ("61 * * * *", "UTC", "`cron`"),
            ("* * * * *", "Nowhere/Town", "`timezone`"),
        ] {
            let why = recurring(cron, zone, Missed::Skip).expect_err("wrong");
            assert!(why.contains(wrong), "{why}");
        }
    }
}
