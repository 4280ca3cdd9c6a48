//! A runner and tenants that have nothing but their rights: everything still works, and nobody is in anybody's place.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use wasmqtt_tests::guests;

use crate::fenced::{Fenced, Kind};
use crate::rig::PATIENCE;
use crate::stranger::{Papers, Stranger};
use crate::under_test::{Serve, run};

pub(crate) async fn tenants_on_mosquitto() {
    tenants(Kind::Mosquitto).await;
}

pub(crate) async fn tenants_on_the_embedded_broker() {
    tenants(Kind::Embedded).await;
}

const CONFIG: &str = "[journal]\ndedupe = \"group\"\n\
    [recurring.tick]\ncron = \"* * * * * *\"\ntenant = \"acme\"\nmodule = \"echo\"\ninput = \"tick\"\n";

async fn tenants(kind: Kind) {
    let fenced = Fenced::start(kind, CONFIG).await;
    let mut operator = fenced.stranger("operator", 5).await;
    assert!(operator.subscribe("#").await);
    hears(&operator, "its presence", |topic, said| {
        topic == "runner_status/edge" && said["status"] == "online"
    })
    .await;

    // As acme, with the command line: a module, a task, an outcome again, a cancel.
    let file = fenced.folder.path().join("guest-error.wasm");
    std::fs::write(&file, guests::GUEST_ERROR).expect("written");
    let module = file.to_str().expect("a path in UTF-8");
    let login = as_user(&fenced, "acme");
    let url = fenced.url();
    let to = [
        "--tenant",
        "acme",
        "--broker",
        url.as_str(),
        "--config",
        login.as_str(),
    ];
    let acme = async |args: &[&str]| run([args, &to].concat()).await;
    let pushed = acme(&["push", module]).await;
    assert!(pushed.status.success(), "{pushed:?}");
    let submitted = acme(&["submit", "echo", "--input", "hello", "--id", "mine"]).await;
    assert_eq!(
        String::from_utf8_lossy(&submitted.stdout),
        "hello",
        "{submitted:?}"
    );
    let again = acme(&["outcome", "mine"]).await;
    assert_eq!(again.status.code(), Some(0), "{again:?}");

    let mut producer = fenced.stranger("acme", 5).await;
    assert!(producer.subscribe("tenants/acme/#").await);
    let queue = "tenants/acme/task_queue";
    let later = json!({"id": "later", "module": "echo", "not_before": "2100-01-01T00:00:00Z"});
    assert!(producer.publish(queue, &later.to_string(), false).await);
    let canceled = acme(&["cancel", "later"]).await;
    assert_eq!(canceled.status.code(), Some(0), "{canceled:?}");

    // A dead letter, status, log; a recurring task; what runners say among themselves.
    let retry = json!({"max_attempts": 2, "initial_delay_ms": 10, "max_delay_ms": 20});
    let fails = json!({"id": "fails", "module": "guest-error", "input": "failed", "retry": retry, "events": true});
    assert!(producer.publish(queue, &fails.to_string(), false).await);
    for topic in [
        "tenants/acme/task_dead_letter",
        "tenants/acme/task_completed",
        "tenants/acme/task_status/fails",
    ] {
        hears(&producer, topic, |on, said| {
            on == topic && said["id"] == "fails"
        })
        .await;
    }
    let heard = async |ear: &Stranger, topic: &str, payload: Option<&[u8]>| {
        let fits =
            |(on, said): &(String, Vec<u8>)| on == topic && payload.is_none_or(|p| p == said);
        while !ear.heard().iter().any(fits) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let recurring = heard(&producer, "tenants/acme/task_completed", Some(b"tick"));
    timeout(PATIENCE, recurring)
        .await
        .expect("a recurring task");
    let told = heard(&operator, "runner_ended/runners", None);
    timeout(PATIENCE, told).await.expect("what ended is told");
    assert!(
        !fenced.serve.log().contains("refused"),
        "{}",
        fenced.serve.log()
    );

    last_will(kind, fenced, &operator).await;
}

/// On a broker that outlives it, a killed runner's presence is put right by its Last Will.
async fn last_will(kind: Kind, fenced: Fenced, operator: &Stranger) {
    if kind == Kind::Mosquitto {
        fenced.serve.signal(Signal::KILL);
        hears(operator, "the last will", |topic, said| {
            topic == "runner_status/edge" && said["status"] == "offline"
        })
        .await;
    } else {
        // Another runner on the embedded one.
        let (url, config) = (fenced.url(), fenced.folder.path().join("runner.toml"));
        let config = config.to_str().expect("a path in UTF-8");
        let other = [
            "--broker",
            url.as_str(),
            "--config",
            config,
            "--name",
            "other",
        ];
        let other = Serve::ready(&other).await;
        other.signal(Signal::KILL);
        hears(operator, "the last will", |topic, said| {
            topic == "runner_status/other" && said["status"] == "offline"
        })
        .await;
        fenced.serve.end().await;
    }
}

/// A configuration file with that user's credentials.
fn as_user(fenced: &Fenced, user: &str) -> String {
    let folder = fenced.folder.path();
    let password = folder.join("passwords").join(user);
    let path = folder.join(format!("{user}.toml"));
    let text = format!(
        "[mqtt]\nusername = \"{user}\"\npassword_file = \"{}\"\n",
        password.display()
    );
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("a path in UTF-8").to_owned()
}

async fn hears(ear: &Stranger, what: &str, fits: impl Fn(&str, &Value) -> bool) {
    let heard = async {
        loop {
            let fitting = ear.heard().iter().any(|(topic, payload)| {
                serde_json::from_slice(payload).is_ok_and(|said: Value| fits(topic, &said))
            });
            if fitting {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(PATIENCE, heard).await.is_err() {
        let topics: Vec<String> = ear.heard().into_iter().map(|(topic, _)| topic).collect();
        panic!("{what} is not heard, but {topics:?}");
    }
}

pub(crate) async fn nobody_takes_a_runners_place_on_mosquitto() {
    nobody_takes_a_runners_place(Kind::Mosquitto).await;
}

pub(crate) async fn nobody_takes_a_runners_place_on_the_embedded_broker() {
    nobody_takes_a_runners_place(Kind::Embedded).await;
}

/// Who connects under a client id takes its session over, and what the broker keeps for it.
async fn nobody_takes_a_runners_place(kind: Kind) {
    let fenced = Fenced::start(kind, "").await;
    let (acme, globex) = (fenced.password("acme"), fenced.password("globex"));
    let runner = std::fs::read_to_string(fenced.folder.path().join("runner.toml"))
        .expect("its configuration");
    let secret = runner.split("client_id_prefix = \"").nth(1);
    let secret = secret
        .and_then(|rest| rest.split('"').next())
        .expect("a prefix")
        .to_owned();
    for version in [4, 5] {
        let mut known = vec![
            "wasmqtt-runners-edge".to_owned(),
            "wasmqtt-runners-edge-control".to_owned(),
            "wasmqtt-runners-edge-modules".to_owned(),
        ];
        if kind == Kind::Embedded {
            // Even if it is guessed.
            known.extend(
                ["", "-control", "-modules"].map(|what| format!("{secret}-runners-edge{what}")),
            );
        }
        for client_id in known {
            let papers = Papers {
                client_id,
                session: true,
                ..fenced.papers("acme", &acme, version)
            };
            if let Ok(stranger) = Stranger::connect(papers).await {
                stranger.die().await;
            }
        }
        // Another tenant's, with what waits for it: nothing of it is heard.
        let of_globex = |user, password| Papers {
            client_id: format!("globex-ear-{version}"),
            session: true,
            ..fenced.papers(user, password, version)
        };
        let mut ear = Stranger::connect(of_globex("globex", &globex))
            .await
            .expect("let in");
        assert!(ear.subscribe("tenants/globex/#").await);
        ear.die().await;
        let mut producer = fenced.stranger("globex", 5).await;
        assert!(producer.subscribe("tenants/globex/task_completed").await);
        let task = json!({"id": format!("t{version}"), "module": "echo", "input": "secret"});
        assert!(
            producer
                .publish("tenants/globex/task_queue", &task.to_string(), false)
                .await
        );
        // Else it may come while the session changes hands, where rmqtt can lose it for a plain subscriber.
        hears(&producer, "the outcome", |_, said| {
            said["id"] == format!("t{version}")
        })
        .await;
        if let Ok(thief) = Stranger::connect(of_globex("acme", &acme)).await {
            assert_eq!(kind, Kind::Mosquitto, "a session is its user's");
            sleep(Duration::from_millis(500)).await;
            assert!(thief.heard().is_empty(), "{:?}", thief.heard());
        } else {
            let ear = Stranger::connect(of_globex("globex", &globex))
                .await
                .expect("let in");
            hears(&ear, "what waited", |topic, _| {
                topic == "tenants/globex/task_completed"
            })
            .await;
        }
    }
    let log = fenced.serve.log();
    assert!(
        !log.contains("took over") && !log.contains("no connection"),
        "{log}"
    );
    fenced.serve.end().await;
}

pub(crate) async fn nobody_comes_in_without_a_password() {
    for kind in [Kind::Mosquitto, Kind::Embedded] {
        let fenced = Fenced::start(kind, "").await;
        let right = fenced.password("acme");
        for version in [4, 5] {
            let papers = |login| Papers {
                login,
                ..fenced.papers("acme", "", version)
            };
            assert!(
                Stranger::connect(papers(Some(("acme", &right))))
                    .await
                    .is_ok()
            );
            for login in [
                None,
                Some(("acme", "")),
                Some(("acme", "wrong")),
                Some(("nobody", right.as_str())),
                Some(("runner", right.as_str())),
                Some(("", "")),
            ] {
                let refused = Stranger::connect(papers(login)).await.err();
                assert!(
                    refused.is_some_and(|code| code != 255),
                    "{kind:?} {version} {login:?}"
                );
            }
        }
        // mosquitto's own control topic, which would make it a user of every right.
        let mut stranger = fenced.stranger("acme", 5).await;
        let evil = json!({"commands": [{"command": "createClient", "username": "evil", "password": "evil"}]});
        stranger
            .publish("$CONTROL/dynamic-security/v1", &evil.to_string(), false)
            .await;
        let login = Some(("evil", "evil"));
        let papers = Papers {
            login,
            ..fenced.papers("evil", "", 5)
        };
        assert!(Stranger::connect(papers).await.is_err());
        fenced.serve.end().await;
    }
}

pub(crate) async fn an_open_broker_is_refused() {
    let open = ["serve", "--embedded-broker", "0.0.0.0:0"];
    let refused = run(open).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(
        why.contains("`broker.users`") && why.contains("`broker.anonymous`"),
        "{why}"
    );
}
