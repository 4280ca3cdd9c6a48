//! What the journal remembers, by task: pure, and small, because every task is looked up in it.

use std::collections::{BTreeMap, HashMap};

use crate::journal::record::{Attempted, Content, Entry, Key};

/// What is known of a task that is not in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It ended, and its outcome is recorded.
    Ended {
        /// What it was to do.
        content: Content,
        /// The broker has the outcome.
        published: bool,
    },
    /// An attempt began and nothing was heard of it: the process died of it.
    Died(Attempted),
}

/// Every task that ended within the window.
#[derive(Debug, Default)]
pub struct Index {
    ended: HashMap<Key, Outcome>,
    groups: BTreeMap<i64, Group>,
    bytes: u64,
    outcomes: usize,
}

#[derive(Debug)]
struct Outcome {
    content: Content,
    published: bool,
    group: i64,
}

/// One commit's share of the log.
#[derive(Debug)]
struct Group {
    at: i64,
    bytes: u64,
    ended: Vec<Key>,
}

impl Index {
    /// What is known of a task.
    pub fn seen(&self, key: Key) -> Option<Seen> {
        self.ended.get(&key).map(|outcome| Seen::Ended {
            content: outcome.content,
            published: outcome.published,
        })
    }

    /// The group in which a task's outcome is recorded.
    pub fn place(&self, key: Key) -> Option<i64> {
        self.ended.get(&key).map(|outcome| outcome.group)
    }

    /// The next group's number.
    pub fn next_group(&self) -> i64 {
        self.groups.last_key_value().map_or(1, |(last, _)| last + 1)
    }

    /// A group was committed, or read back.
    pub fn add<'a>(
        &mut self,
        group: i64,
        at: i64,
        bytes: u64,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) {
        let mut ended = Vec::new();
        for entry in entries {
            match entry {
                Entry::Kept(_) | Entry::IsKept(_) => {}
                Entry::Ended(outcome) => {
                    let known = Outcome {
                        content: outcome.content,
                        published: false,
                        group,
                    };
                    self.ended.insert(outcome.key, known);
                    ended.push(outcome.key);
                }
                Entry::Published(key) => {
                    if let Some(outcome) = self.ended.get_mut(key) {
                        outcome.published = true;
                    }
                }
            }
        }
        self.bytes += bytes;
        self.outcomes += ended.len();
        self.groups.insert(group, Group { at, bytes, ended });
    }

    /// The tasks whose outcome the broker may not have, in the order of their ends.
    pub fn unpublished(&self) -> Vec<Key> {
        let ended = self
            .groups
            .iter()
            .flat_map(|(n, g)| g.ended.iter().map(move |key| (*n, *key)));
        let waits = |(group, key): &(i64, Key)| self.holds(*group, key);
        ended.filter(waits).map(|(_, key)| key).collect()
    }

    fn holds(&self, group: i64, key: &Key) -> bool {
        let outcome = self.ended.get(key);
        outcome.is_some_and(|outcome| outcome.group == group && !outcome.published)
    }

    /// Forgets the oldest groups until what is left is within the bounds and not older than `before`; an outcome that
    /// the broker may not have holds its group and all behind it. Returns the last group forgotten.
    pub fn prune(&mut self, before: i64, max_outcomes: usize, max_bytes: u64) -> Option<i64> {
        let mut last = None;
        while let Some((number, group)) = self.groups.first_key_value() {
            let number = *number;
            let over = group.at < before || self.outcomes > max_outcomes || self.bytes > max_bytes;
            if !over || group.ended.iter().any(|key| self.holds(number, key)) {
                break;
            }
            let Some((_, group)) = self.groups.pop_first() else {
                break;
            };
            self.bytes -= group.bytes;
            self.outcomes -= group.ended.len();
            for key in &group.ended {
                if self.place(*key) == Some(number) {
                    self.ended.remove(key);
                }
            }
            last = Some(number);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskId;
    use crate::task::tenant::TenantId;
    use std::sync::Arc;

    fn key(id: &str) -> Key {
        Key::of(&TenantId::default(), &TaskId::parse(id).expect("an id"))
    }

    fn content() -> Content {
        let bytes = [0; 16];
        serde_json::from_value(serde_json::json!(bytes)).expect("content")
    }

    fn ended(id: &str) -> Entry {
        Entry::Ended(Arc::new(crate::journal::record::Ended {
            key: key(id),
            tenant: "default".to_owned(),
            id: id.to_owned(),
            content: content(),
            messages: Vec::new(),
            dead_letter: None,
        }))
    }

    #[test]
    fn what_is_not_published_is_not_forgotten() {
        let mut index = Index::default();
        index.add(1, 0, 10, &[ended("a")]);
        index.add(2, 0, 10, &[ended("b")]);
        assert_eq!(index.unpublished(), [key("a"), key("b")]);
        assert_eq!(index.prune(100, 0, 0), None);
        index.add(3, 200, 10, &[Entry::Published(key("a"))]);
        assert_eq!(index.prune(100, 10, 1000), Some(1));
        assert_eq!(index.seen(key("a")), None);
        index.add(4, 200, 10, &[Entry::Published(key("b"))]);
        assert_eq!(index.prune(100, 10, 1000), Some(2));
        assert_eq!(index.seen(key("b")), None);
        assert_eq!((index.bytes, index.outcomes), (20, 0));
    }

    #[test]
    fn bounds_forget_the_oldest() {
        let mut index = Index::default();
        for n in 1..=10 {
            let id = n.to_string();
            index.add(n, n, 100, &[ended(&id), Entry::Published(key(&id))]);
        }
        assert_eq!(index.prune(0, 4, u64::MAX), Some(6));
        assert_eq!(index.prune(0, 4, 250), Some(8));
        assert!(index.seen(key("9")).is_some() && index.seen(key("8")).is_none());
    }
}
