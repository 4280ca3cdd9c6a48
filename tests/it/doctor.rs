//! `wasmqtt doctor`, and the glance that `serve` takes: on brokers that are well and on those that are not.

use serde_json::Value;

use crate::fenced::{Fenced, Kind};
use crate::stock::{Mosquitto, program};
use crate::under_test::{Serve, run};

/// Runs it; its exit code, and the verdicts by their checks.
async fn doctor(args: &[&str]) -> (Option<i32>, Value) {
    let ended = run([&["doctor", "--json"], args].concat()).await;
    let report: Value =
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("no report: {ended:?}"));
    (ended.status.code(), report["findings"].clone())
}

fn of<'a>(findings: &'a Value, check: &str) -> (&'a str, &'a str) {
    let list = findings.as_array().expect("a list");
    let found = list.iter().find(|finding| finding["check"] == check);
    let finding = found.unwrap_or_else(|| panic!("no {check}: {findings:#}"));
    (
        finding["verdict"].as_str().expect("a verdict"),
        finding["says"].as_str().expect("a text"),
    )
}

pub(crate) async fn a_broker_that_is_well() {
    for kind in [Kind::Mosquitto, Kind::Embedded] {
        let fenced = Fenced::start(kind, "").await;
        let mut operator = fenced.stranger("operator", 5).await;
        let (url, folder) = (fenced.url(), fenced.folder.path());
        let runner = folder.join("runner.toml");
        for user in ["acme", "default"] {
            let password = folder.join("passwords").join(user);
            let args = [
                "--broker",
                &url,
                "--config",
                runner.to_str().expect("UTF-8"),
            ];
            let tenant = [
                "--tenant-user",
                user,
                "--tenant-password-file",
                password.to_str().expect("UTF-8"),
            ];
            let (code, findings) = doctor(&[args, tenant].concat()).await;
            assert_eq!(code, Some(0), "{kind:?} {user}: {findings:#}");
            for check in [
                "redelivery",
                "queue",
                "joins the runners",
                "hears others",
                "speaks for others",
            ] {
                assert_eq!(
                    of(&findings, check).0,
                    "fine",
                    "{kind:?} {user}: {findings:#}"
                );
            }
        }
        // It leaves nothing behind, and took no runner off its feet.
        assert!(operator.subscribe("#").await);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let left: Vec<String> = operator
            .heard()
            .into_iter()
            .map(|(topic, _)| topic)
            .collect();
        assert!(
            !left.iter().any(|topic| topic.contains("doctor")),
            "{left:?}"
        );
        assert!(
            !fenced.serve.log().contains("no connection"),
            "{}",
            fenced.serve.log()
        );
        fenced.serve.end().await;
    }
}

/// FACTS: the pattern lets a tenant subscribe what it may not read, and the broker routes it half of the tasks.
pub(crate) async fn a_pattern_acl_is_fatal() {
    let mosquitto = Mosquitto::with(|m| {
        let folder = m.folder.path();
        let write =
            |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("written");
        write(
            "acl",
            "user runner\ntopic readwrite #\npattern readwrite tenants/%u/#\n",
        );
        for user in ["acme", "runner"] {
            write(&format!("{user}.password"), "secret\n");
        }
        let users = folder.join("users");
        write("users", "");
        write(
            "runner.toml",
            &format!(
                "[mqtt]\nusername = \"runner\"\npassword_file = \"{}/runner.password\"\n",
                folder.display()
            ),
        );
        for user in ["acme", "runner"] {
            let made = std::process::Command::new(program("mosquitto_passwd"))
                .arg("-b")
                .arg(&users)
                .args([user, "secret"])
                .status();
            assert!(made.expect("mosquitto_passwd runs").success());
        }
        let folder = folder.display();
        format!("allow_anonymous false\npassword_file {folder}/users\nacl_file {folder}/acl\n")
    })
    .await;
    let (url, folder) = (
        mosquitto.url(),
        mosquitto.folder.path().display().to_string(),
    );
    let (config, password) = (
        format!("{folder}/runner.toml"),
        format!("{folder}/acme.password"),
    );
    let args = [
        "--broker",
        &url,
        "--config",
        &config,
        "--tenant-user",
        "acme",
        "--tenant-password-file",
        &password,
    ];
    let (code, findings) = doctor(&args).await;
    assert_eq!(code, Some(4), "{findings:#}");
    let (verdict, says) = of(&findings, "joins the runners");
    assert_eq!(verdict, "fatal", "{findings:#}");
    assert!(
        says.contains("of 20 messages the runner beside it got 10"),
        "{says}"
    );
    let (verdict, says) = of(&findings, "takes sessions over");
    assert_eq!(verdict, "fatal", "{findings:#}");
    assert!(says.contains("client_id_prefix"), "{says}");
}

pub(crate) async fn mosquitto_as_installed() {
    let mosquitto = Mosquitto::start().await;
    let (code, findings) = doctor(&["--broker", &mosquitto.url()]).await;
    assert_eq!(code, Some(3), "{findings:#}");
    assert_eq!(
        of(&findings, "shared subscriptions").0,
        "fine",
        "{findings:#}"
    );
    let (verdict, says) = of(&findings, "queue");
    assert_eq!(verdict, "warning", "{findings:#}");
    assert!(
        says.contains("1200 messages were acknowledged") && says.contains("1000 waited"),
        "{says}"
    );
    let ended = run(["doctor", "--broker", &mosquitto.url()]).await;
    let table = String::from_utf8_lossy(&ended.stdout);
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("queue") && line.contains("WARNING")),
        "{table}"
    );
    let ended = run(["doctor", "--broker", "mqtt://127.0.0.1:1"]).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
}

/// mosquitto 2.0 with `max_queued_messages 0`.
pub(crate) async fn a_denial_that_closes_the_connection() {
    let fenced = Fenced::on_mosquitto(|conf| {
        conf.replace("max_queued_messages 10000000", "max_queued_messages 0")
    })
    .await;
    let (url, folder) = (fenced.url(), fenced.folder.path());
    let (runner, password) = (
        folder.join("runner.toml"),
        folder.join("passwords").join("acme"),
    );
    let args = [
        "--broker",
        &url,
        "--config",
        runner.to_str().expect("UTF-8"),
    ];
    let tenant = [
        "--tenant-user",
        "acme",
        "--tenant-password-file",
        password.to_str().expect("UTF-8"),
    ];
    let (code, findings) = doctor(&[args, tenant].concat()).await;
    assert_eq!(code, Some(3), "{findings:#}");
    assert_eq!(
        of(&findings, "a denied publish").0,
        "warning",
        "{findings:#}"
    );
}

pub(crate) async fn serve_warns_or_refuses() {
    let mosquitto = Mosquitto::start().await;
    let file = mosquitto.folder.path().join("tenants.toml");
    std::fs::write(&file, "[tenants.acme]\n").expect("written");
    let (url, file) = (mosquitto.url(), file.to_str().expect("UTF-8").to_owned());
    let args = ["--broker", url.as_str(), "--config", &file];
    let serve = Serve::ready(&args).await;
    assert!(
        serve
            .log()
            .contains("whoever connects without a name can be any"),
        "{}",
        serve.log()
    );
    serve.end().await;
    let refused = run([&["serve", "--strict"], args.as_slice()].concat()).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("the broker is unfit: anonymous"), "{why}");
    // Nothing is wrong with this one.
    let fenced = Fenced::start(Kind::Mosquitto, "[runner]\nstrict = true\n[tenants.acme]\n").await;
    assert!(
        !fenced.serve.log().contains("WARN"),
        "{}",
        fenced.serve.log()
    );
    fenced.serve.end().await;
}
