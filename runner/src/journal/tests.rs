use super::*;
use crate::journal::record::{Content, Stored};
use crate::task::outcome::Attempt;
use crate::task::{ModuleName, ModuleRef, TaskId, tenant::TenantId};

fn key(id: &str) -> Key {
    Key::of(&TenantId::default(), &TaskId::parse(id).expect("an id"))
}

fn content() -> Content {
    let module = ModuleRef::Name(ModuleName::parse("echo").expect("a name"));
    let inbound = crate::envelope::Inbound {
        topic: "task_queue".to_owned(),
        payload: "{\"module\":\"echo\"}".into(),
        properties: Default::default(),
    };
    let topics = crate::envelope::topics::Topics::default();
    let now = SystemTime::UNIX_EPOCH;
    let rules = |_: &TenantId| crate::envelope::decode::Rules {
        default_module: Some(module),
        ..Default::default()
    };
    let task = crate::envelope::decode::decode(&topics, &inbound, rules, now);
    Content::of(&task.expect("a task"))
}

fn attempted(id: &str) -> Attempted {
    Attempted {
        key: key(id),
        content: content(),
        attempt: 1,
        deaths: 0,
    }
}

fn second_of(id: &str) -> Attempted {
    Attempted {
        attempt: 2,
        deaths: 1,
        ..attempted(id)
    }
}

fn ended(id: &str, payload: &str) -> Arc<Ended> {
    let message = crate::envelope::Message::new("task_completed", payload.to_owned());
    Arc::new(Ended {
        key: key(id),
        tenant: "default".to_owned(),
        id: id.to_owned(),
        content: content(),
        messages: vec![Stored::from(&message)],
        dead_letter: None,
    })
}

fn kept(id: &str) -> Kept {
    Kept {
        key: key(id),
        id: id.to_owned(),
        message: ended(id, "the task").messages[0].clone(),
        received_at: SystemTime::UNIX_EPOCH,
        due: SystemTime::UNIX_EPOCH,
        attempts: Vec::new(),
        deaths: 0,
    }
}

fn settings(folder: &Path) -> Settings {
    Settings {
        folder: Some(folder.to_owned()),
        ..Settings::default()
    }
}

fn open(folder: &Path) -> (Journal, Closer, Recovered) {
    Journal::open(settings(folder)).expect("a journal")
}

#[tokio::test]
async fn what_was_recorded_is_there_again() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let (journal, closer, recovered) = open(folder.path());
    assert!(recovered.outbox.is_empty() && recovered.kept.is_empty());
    for id in ["1", "2", "3", "4"] {
        journal.attempt(attempted(id)).await;
    }
    journal.ended(ended("1", "one")).await;
    journal.published(key("1"));
    journal.ended(ended("2", "two")).await;
    journal.keep(kept("3")).await;
    journal.keep(kept("5")).await;
    journal.ended(ended("5", "five")).await;
    assert_eq!(
        journal.outcome(key("1")).await.as_ref(),
        Some(&*ended("1", "one"))
    );
    drop(journal);
    closer.close();

    let (journal, _closer, recovered) = open(folder.path());
    assert_eq!(
        recovered.outbox,
        [(*ended("2", "two")).clone(), (*ended("5", "five")).clone()]
    );
    assert_eq!(recovered.kept, [kept("3")]);
    let seen = |id| journal.seen(key(id));
    assert!(matches!(
        seen("1"),
        Some(Seen::Ended {
            published: true,
            ..
        })
    ));
    assert!(matches!(
        seen("2"),
        Some(Seen::Ended {
            published: false,
            ..
        })
    ));
    assert_eq!(seen("3"), None);
    assert_eq!(seen("4"), Some(Seen::Died(attempted("4"))));
    assert_eq!(
        journal.outcome(key("1")).await.as_ref(),
        Some(&*ended("1", "one"))
    );
    assert_eq!(journal.outcome(key("9")).await, None);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let (journal, closer, _) = open(folder.path());
    for n in 0..200 {
        journal
            .ended(ended(&n.to_string(), &"x".repeat(1000)))
            .await;
    }
    drop(journal);
    closer.close();
    let file = folder.path().join(FILE);
    let whole = std::fs::read(&file).expect("the journal");
    let mut headless = whole.clone();
    headless[..100].fill(0xff);
    let mut holed = whole.clone();
    let middle = holed.len() / 2;
    holed[middle..middle + 8192].fill(0xff);
    for damaged in [
        headless,
        holed,
        whole[..whole.len() / 3].to_vec(),
        b"no journal".to_vec(),
    ] {
        std::fs::write(&file, damaged).expect("a damaged journal");
        let (journal, closer, _) = open(folder.path());
        journal.ended(ended("new", "new")).await;
        drop(journal);
        closer.close();
    }
    let aside = std::fs::read_dir(folder.path()).expect("a folder");
    let aside = aside.filter(|file| {
        let name = file.as_ref().expect("a file").file_name();
        name.to_string_lossy().contains(".damaged-")
    });
    assert!(aside.count() >= 3);
}

#[tokio::test]
async fn in_memory_there_is_a_window_too() {
    let (journal, _closer, _) = Journal::open(Settings {
        max_outcomes: 10,
        ..Settings::default()
    })
    .expect("a journal");
    for n in 0..50 {
        journal.ended(ended(&n.to_string(), "x")).await;
        journal.published(key(&n.to_string()));
    }
    // The oldest are looked for once a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    journal.ended(ended("last", "x")).await;
    assert_eq!(journal.seen(key("0")), None);
    assert!(journal.seen(key("49")).is_some());
}

#[tokio::test]
async fn attempts_without_an_end_are_deaths() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let (journal, closer, _) = open(folder.path());
    for id in ["a", "b", "c", "d"] {
        journal.attempt(attempted(id)).await;
    }
    journal.ended(ended("a", "one")).await;
    journal.broken_off(key("b"));
    journal.attempt(second_of("c")).await;
    journal.attempt(second_of("d")).await;
    journal.broken_off(key("d"));
    drop(journal);
    closer.close();
    let (journal, ..) = open(folder.path());
    let seen = |id| journal.seen(key(id));
    assert!(matches!(seen("a"), Some(Seen::Ended { .. })));
    assert_eq!(seen("b"), None);
    assert_eq!(seen("c"), Some(Seen::Died(second_of("c"))));
    // The one before it still counts.
    assert_eq!(seen("d"), Some(Seen::Died(attempted("d"))));
}

/// A process that is killed between a commit and the forgetting of the attempt leaves both.
#[tokio::test]
async fn an_attempt_that_is_over_is_no_death() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let (journal, closer, _) = open(folder.path());
    journal.ended(ended("ended", "one")).await;
    let failed = Attempt {
        attempt: 1,
        failed_at: SystemTime::UNIX_EPOCH,
        code: "trap".to_owned(),
        message: String::new(),
    };
    for id in ["kept", "again"] {
        let attempts = vec![failed.clone()];
        journal
            .keep(Kept {
                attempts,
                ..kept(id)
            })
            .await;
    }
    journal.attempt(attempted("ended")).await;
    journal.attempt(attempted("kept")).await;
    journal.attempt(second_of("again")).await;
    drop(journal);
    closer.close();
    let (journal, ..) = open(folder.path());
    let seen = |id| journal.seen(key(id));
    assert!(matches!(seen("ended"), Some(Seen::Ended { .. })));
    assert_eq!(seen("kept"), None);
    assert_eq!(seen("again"), Some(Seen::Died(second_of("again"))));
}

#[tokio::test]
async fn slots_of_attempts_are_used_again() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("attempts");
    for _ in 0..3 {
        let (journal, closer, _) = open(folder.path());
        for n in 0..200 {
            journal.attempt(attempted(&n.to_string())).await;
            if n % 2 == 0 {
                journal.ended(ended(&n.to_string(), "x")).await;
            }
        }
        drop(journal);
        closer.close();
        // 100 without an end, and one beside: whole pages of 64 slots.
        assert_eq!(std::fs::metadata(&file).expect("the file").len(), 2 * 4096);
    }
    // What is no record is a free slot.
    let mut bytes = std::fs::read(&file).expect("the file");
    bytes.iter_mut().step_by(7).for_each(|byte| *byte ^= 0x55);
    std::fs::write(&file, &bytes).expect("a damaged file");
    let (journal, ..) = open(folder.path());
    assert_eq!(journal.seen(key("1")), None);
    journal.attempt(attempted("1")).await;
    assert_eq!(journal.seen(key("1")), Some(Seen::Died(attempted("1"))));
}
