//! What became of every task: acknowledged ids and outcomes in, a verdict out. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The words that end a task.
const STATUSES: &[&str] = &[
    "succeeded",
    "failed",
    "timed_out",
    "rejected",
    "canceled",
    "expired",
];

/// How far a submitter got with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Submitted {
    /// Published, but no PUBACK came, or one that refuses it: it may run or not.
    Tried,
    /// The broker has taken it over.
    Acknowledged,
}

/// An outcome as it was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) id: String,
    pub(crate) status: String,
    /// The output, or the error's code.
    pub(crate) answer: String,
    /// Who ran it and when it began: two outcomes of one run are one outcome sent twice.
    pub(crate) runner: String,
    pub(crate) started_at: String,
}

/// What is said of a run. Every acknowledged id is in exactly one of `ended`, `conflicting` and `lost`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: usize,
    /// By id, how it ended; with the error's code if it did not succeed.
    pub(crate) ended: BTreeMap<String, String>,
    /// Acknowledged, and no outcome was heard.
    pub(crate) lost: BTreeSet<String>,
    /// Outcomes with different status or answer; each of them.
    pub(crate) conflicting: BTreeMap<String, Vec<String>>,
    /// The same status and answer once more: how often.
    pub(crate) duplicates: BTreeMap<String, usize>,
    /// Runs of a task beyond its first that told their outcome.
    pub(crate) ran_again: usize,
    /// Outcomes of ids that nobody submitted, or with a status that is none.
    pub(crate) unexpected: BTreeSet<String>,
    /// Succeeded with another answer than the task's.
    pub(crate) wrong: BTreeMap<String, String>,
}

/// Judges. `answer_of` says what a task must answer when it succeeds.
pub(crate) fn check(
    submitted: &BTreeMap<String, Submitted>,
    heard: &[Heard],
    answer_of: impl Fn(&str) -> String,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut by_id: BTreeMap<&str, Vec<&Heard>> = BTreeMap::new();
    for outcome in heard {
        let known = submitted.contains_key(&outcome.id);
        if known && STATUSES.contains(&&*outcome.status) {
            by_id.entry(&outcome.id).or_default().push(outcome);
        } else {
            let Heard { id, status, .. } = outcome;
            verdict.unexpected.insert(format!("{id} ({status})"));
        }
    }
    for (id, outcomes) in &by_id {
        verdict.ended_as(id, outcomes, &answer_of);
    }
    for (id, submitted) in submitted {
        if *submitted == Submitted::Acknowledged {
            verdict.acknowledged += 1;
            if !by_id.contains_key(&**id) {
                verdict.lost.insert(id.clone());
            }
        }
    }
    verdict
}

impl Verdict {
    /// Takes in all outcomes of one task.
    fn ended_as(&mut self, id: &str, outcomes: &[&Heard], answer_of: impl Fn(&str) -> String) {
        let distinct: BTreeSet<_> = outcomes.iter().map(|o| (&o.status, &o.answer)).collect();
        let runs: BTreeSet<_> = outcomes
            .iter()
            .map(|o| (&o.runner, &o.started_at))
            .collect();
        self.ran_again += runs.len() - 1;
        for outcome in outcomes {
            if outcome.status == "succeeded" && outcome.answer != answer_of(id) {
                self.wrong.insert(id.to_owned(), outcome.answer.clone());
            }
        }
        if distinct.len() > 1 {
            let words = outcomes
                .iter()
                .map(|o| format!("{} {:?} of {}", o.status, o.answer, o.runner));
            self.conflicting.insert(id.to_owned(), words.collect());
            return;
        }
        let Heard { status, answer, .. } = outcomes[0];
        let words = match &**status {
            "succeeded" => status.clone(),
            status => format!("{status}: {answer}"),
        };
        self.ended.insert(id.to_owned(), words);
        if outcomes.len() > 1 {
            self.duplicates.insert(id.to_owned(), outcomes.len() - 1);
        }
    }

    /// How many outcomes too many there were.
    pub(crate) fn duplicated(&self) -> usize {
        self.duplicates.values().sum()
    }

    /// How many tasks ended in each way.
    fn statuses(&self) -> BTreeMap<&str, usize> {
        let mut statuses = BTreeMap::new();
        for status in self.ended.values() {
            *statuses.entry(&**status).or_default() += 1;
        }
        statuses
    }

    /// Whether every outcome there is makes sense, whatever was lost.
    pub(crate) fn is_consistent(&self) -> bool {
        self.conflicting.is_empty() && self.unexpected.is_empty() && self.wrong.is_empty()
    }

    /// Whether nothing is wrong. Duplicates are not.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_consistent() && self.lost.is_empty()
    }

    /// Whether all tasks succeeded that ended.
    pub(crate) fn all_succeeded(&self) -> bool {
        self.ended.values().all(|status| status == "succeeded")
    }
}

/// One line, and the ids of what is wrong below it.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tasks, lost {}, conflicting {}, duplicates {}, unexpected {}",
            self.acknowledged,
            self.lost.len(),
            self.conflicting.len(),
            self.duplicated(),
            self.unexpected.len(),
        )?;
        if self.ran_again > 0 {
            write!(f, ", ran again {}", self.ran_again)?;
        }
        if !self.wrong.is_empty() {
            write!(f, ", wrong {}", self.wrong.len())?;
        }
        if !self.all_succeeded() {
            write!(f, ", ended {:?}", self.statuses())?;
        }
        Ok(())
    }
}

impl Verdict {
    /// The ids of what is wrong, a kind a line; empty when nothing is. The lost ones are listed by where they were
    /// seen last, which is not known here.
    pub(crate) fn details(&self) -> String {
        let conflicting = self
            .conflicting
            .iter()
            .map(|(id, words)| format!("{id}: {}", words.join(" | ")));
        let wrong = self
            .wrong
            .iter()
            .map(|(id, answer)| format!("{id}: {answer:?}"));
        [
            list("conflicting", conflicting),
            list("unexpected", self.unexpected.iter().cloned()),
            list("wrong", wrong),
        ]
        .concat()
    }
}

/// A line that names every one, or nothing when there is nothing to list.
pub(crate) fn list(kind: &str, entries: impl Iterator<Item = String>) -> String {
    let entries: Vec<String> = entries.collect();
    if entries.is_empty() {
        return String::new();
    }
    format!("  {kind}: {}\n", entries.join(", "))
}
