//! What a tenant was granted works, within its bounds; what it was not is refused by name, before anything is compiled.

use serde_json::{Value, json};
use wasmqtt::config::Config;
use wasmqtt::config::capabilities::{Capabilities, Http, KeyValue, Publish};
use wasmqtt::envelope::Message;
use wasmqtt_tests::guests;

use crate::cli::Shell;
use crate::rig::{Ear, Rig, retained};
use crate::shown;
use crate::under_test::Serve;

/// Grants something to the tenant `acme`.
pub(crate) fn grant(config: &mut Config, change: impl FnOnce(&mut Capabilities)) {
    let tenant = config.tenants.entry("acme".to_owned()).or_default();
    change(&mut tenant.capabilities);
}

/// Publishes a module of a tenant, runs it on an input, and returns the outcome.
pub(crate) async fn ask(
    rig: &mut Rig,
    tenant: &str,
    id: &str,
    module: &'static [u8],
    input: Value,
) -> Value {
    let prefix = match tenant {
        "default" => String::new(),
        tenant => format!("tenants/{tenant}/"),
    };
    rig.publish(retained(&format!("{prefix}modules/{id}"), module))
        .await;
    let task = json!({"id": id, "module": id, "input": input, "logs": true, "events": true});
    rig.publish(Message::new(
        format!("{prefix}task_queue"),
        task.to_string(),
    ))
    .await;
    rig.ear.outcome(id).await
}

fn lines(outcome: &Value) -> Vec<&str> {
    let output = outcome["output"].as_str();
    output
        .unwrap_or_else(|| panic!("{outcome}"))
        .lines()
        .collect()
}

/// Each module that imports something to be granted, and what.
const NEEDY: [(&str, &str, &[u8]); 5] = [
    ("http", "wasi:http/outgoing-handler@0.2.", guests::FETCH),
    (
        "http",
        "wasi:http/outgoing-handler@0.2.",
        guests::WANTS_HTTP,
    ),
    (
        "config",
        "wasi:config/store@0.2.0-rc.1",
        guests::READS_CONFIG,
    ),
    ("keyvalue", "wasi:keyvalue/store@0.2.0-draft", guests::KEEPS),
    ("publish", "wasmqtt:task/publish@0.1.0", guests::PUBLISHES),
];

pub(crate) async fn what_is_not_granted_is_refused_by_name() {
    let mut rig = Rig::with(|config| grant(config, |it| it.entropy = true)).await;
    for (number, (capability, import, module)) in NEEDY.into_iter().enumerate() {
        // One tenant that was granted something else, and two that were granted nothing.
        for tenant in ["acme", "default", "unlisted"] {
            let id = format!("{tenant}-{number}");
            let outcome = ask(&mut rig, tenant, &id, module, json!("")).await;
            assert_eq!(outcome["status"], "rejected", "{outcome}");
            assert_eq!(outcome["attempt"], 0, "{outcome}");
            let error = &outcome["error"];
            assert_eq!(error["code"], "capability_denied", "{outcome}");
            let message = error["message"].as_str().expect("a message");
            assert!(message.contains(import), "{message}");
            let named = format!("capability `{capability}`");
            assert!(message.contains(&named), "{message}");
        }
    }
    rig.end().await;
}

/// The log says what was compiled: a module that one tenant was refused is not, and one that another had compiled is
/// refused all the same.
pub(crate) async fn a_refusal_compiles_nothing_and_a_compiled_module_is_refused_too() {
    let shell = Shell::new();
    shell.write(
        "granted.toml",
        b"[tenants.acme.capabilities]\nkeyvalue = {}\n",
    );
    let config = shell.path().join("granted.toml");
    let config = config.to_str().expect("a path");
    let server = Serve::ready(&["--embedded-broker", "127.0.0.1:0", "--config", config]).await;
    let mut ear = Ear::connect(&server.url()).await;
    for prefix in ["", "tenants/acme/"] {
        let module = retained(&format!("{prefix}modules/keeps"), guests::KEEPS);
        ear.publisher.publish(module).await.expect("a PUBACK");
    }
    let mut run = async |prefix: &str, id: &str| {
        let task = json!({"id": id, "module": "keeps", "input": "set a b"});
        let task = Message::new(format!("{prefix}task_queue"), task.to_string());
        ear.publisher.publish(task).await.expect("a PUBACK");
        let outcome = ear.outcome(id).await;
        outcome["error"]["code"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    };
    let compiled = || server.log().matches("module compiled").count();
    assert_eq!(run("", "cold").await, "capability_denied");
    assert_eq!(compiled(), 0, "{}", server.log());
    assert_eq!(run("tenants/acme/", "granted").await, "none");
    assert_eq!(compiled(), 1, "{}", server.log());
    assert_eq!(run("", "warm").await, "capability_denied");
    ear.publisher.close().await;
    server.end().await;
}

/// Nor does what lies compiled on disk from before a restart, where nobody has read its structure again.
pub(crate) async fn what_is_on_disk_is_refused_too() {
    let folder = tempfile::tempdir().expect("a folder");
    // The other one wants a handler of another type than there is, and runs for nobody.
    let needy = NEEDY.into_iter().filter(|it| it.2 != guests::WANTS_HTTP);
    let needy: Vec<_> = needy.enumerate().collect();
    let mut first = Rig::with(|config| {
        config.modules.cache_directory = Some(folder.path().join("cache"));
        grant(config, |it| {
            it.http = Some(Http {
                hosts: vec!["nowhere.invalid".to_owned()],
                ..Http::default()
            });
            it.config.insert("colour".to_owned(), "green".to_owned());
            it.keyvalue = Some(KeyValue::default());
            it.publish = Some(Publish::default());
        });
    })
    .await;
    for (number, (_, _, module)) in &needy {
        let id = format!("granted-{number}");
        let outcome = ask(&mut first, "acme", &id, module, json!("")).await;
        assert_ne!(outcome["status"], "rejected", "{outcome}");
        assert_eq!(outcome["usage"]["module_cache"], "compiled", "{outcome}");
    }
    first.stop().await;
    let mut second = Rig::on(first.config.clone()).await;
    for (number, (capability, import, module)) in &needy {
        for (tenant, id) in [("default", "denied"), ("acme", "again")] {
            let id = format!("{id}-{number}");
            let outcome = ask(&mut second, tenant, &id, module, json!("")).await;
            if tenant == "acme" {
                // Found there, and compiled by nobody on the way.
                assert_eq!(outcome["usage"]["module_cache"], "memory", "{outcome}");
                continue;
            }
            let error = &outcome["error"];
            assert_eq!(error["code"], "capability_denied", "{outcome}");
            let message = error["message"].as_str().expect("a message");
            assert!(message.contains(import), "{message}");
            assert!(message.contains(capability), "{message}");
        }
    }
    second.end().await;
    first.end().await;
}

pub(crate) async fn secrets_are_the_guests_alone() {
    let shell = Shell::new();
    shell.write("secret", b"correct-horse\n");
    shell.write(
        "granted.toml",
        format!(
            "[tenants.default.capabilities]\nconfig = {{ colour = \"green\" }}\n\
             secrets = {{ key = \"@{}\" }}\n",
            shell.path().join("secret").display()
        )
        .as_bytes(),
    );
    let config = shell.path().join("granted.toml");
    let config = config.to_str().expect("a path");
    let server = Serve::ready_with(
        &["--embedded-broker", "127.0.0.1:0", "--config", config],
        |mut command| {
            command.env("WASMQTT_LOG", "debug,rmqtt=off");
            command
        },
    )
    .await;
    let mut ear = Ear::connect(&server.url()).await;
    let module = retained("modules/guest", guests::READS_CONFIG);
    ear.publisher.publish(module).await.expect("a PUBACK");
    let mut run = async |id: &str, key: &str| {
        let task = json!({"id": id, "module": "guest", "input": key, "logs": true, "events": true});
        let task = Message::new("task_queue", task.to_string());
        ear.publisher.publish(task).await.expect("a PUBACK");
        ear.outcome(id).await
    };
    // Names and lengths: it has both values, whole.
    assert_eq!(run("all", "").await["output"], "colour=5 key=13");
    assert_eq!(run("none", "size").await["output"], "none");
    let plain = run("plain", "colour").await;
    assert_eq!(plain["error"]["message"], "refused with green", "{plain}");
    let hidden = run("hidden", "key").await;
    let message = &hidden["error"]["message"];
    assert_eq!(message, "refused with (secret)", "{hidden}");
    let said = ear.unasked(|_| true);
    let said: Vec<_> = said
        .iter()
        .map(|it| String::from_utf8_lossy(&it.payload))
        .collect();
    assert!(
        said.iter().any(|it| it.contains("the value is (secret)")),
        "{said:?}"
    );
    assert!(
        said.iter().any(|it| it.contains("stderr has (secret)")),
        "{said:?}"
    );
    assert!(
        said.iter().any(|it| it.contains("with (secret)")),
        "{said:?}"
    );
    assert!(
        !said.iter().any(|it| it.contains("correct-horse")),
        "{said:?}"
    );
    ear.publisher.close().await;
    let log = server.log();
    server.end().await;
    assert!(!log.contains("correct-horse"), "{log}");

    // Nor does anything that prints the configuration.
    for more in [
        &[][..],
        &["--json"],
        &["--tenant", "default"],
        &["--tenant", "default", "--json"],
    ] {
        let arguments = [&["check", "--config", "granted.toml"], more].concat();
        let ended = shell.call(&arguments).await.code(0);
        assert!(!ended.text().contains("correct-horse"), "{}", ended.text());
    }
}

pub(crate) async fn keys_and_values_outlive_tasks_and_restarts() {
    let state = tempfile::tempdir().expect("a folder");
    let quota = KeyValue {
        max_bytes: 1000,
        max_keys: 5,
        max_value_bytes: 500,
    };
    let change = |config: &mut Config| {
        config.journal.directory = Some(state.path().to_owned());
        grant(config, |it| it.keyvalue = Some(quota));
        let other = config.tenants.entry("other".to_owned()).or_default();
        other.capabilities.keyvalue = Some(quota);
    };
    let mut rig = Rig::with(change).await;
    let input = "set a one\nget a\nget b\nexists a\nset b two\ndelete a\nlist\nadd n 5\nadd n 7\n\
                 many m1 m2 m3\nlist\nadd b 1\nopen\nopen elsewhere";
    let outcome = ask(&mut rig, "acme", "first", guests::KEEPS, json!(input)).await;
    let expected = [
        "done",
        "one",
        "none",
        "true",
        "done",
        "done",
        "b",
        "5",
        "12",
        "3",
        "b m1 n",
        "Error::Other(\"the value is no decimal number\")",
        "what?",
        "Error::NoSuchStore",
    ];
    assert_eq!(lines(&outcome), expected, "{outcome}");

    // Another tenant's keys are others, and the quota is each one's own.
    let outcome = ask(
        &mut rig,
        "other",
        "theirs",
        guests::KEEPS,
        json!("list\nget b"),
    )
    .await;
    assert_eq!(lines(&outcome), ["", "none"], "{outcome}");
    let input = "fill big 501\nfill x 499\nfill y 499\nfill y 400\nfill z 200\nset c 1\nset d 1\nset e 1\nset f 1\nlist";
    let outcome = ask(&mut rig, "other", "quota", guests::KEEPS, json!(input)).await;
    let said = lines(&outcome);
    assert!(
        said[0].contains("bytes of a value: at most 500, got 501"),
        "{outcome}"
    );
    assert_eq!(said[1..3], ["done", "done"], "{outcome}");
    assert_eq!(said[3], "done", "{outcome}");
    assert!(
        said[4].contains("bytes of the tenant: at most 1000"),
        "{outcome}"
    );
    assert_eq!(said[5..8], ["done"; 3], "{outcome}");
    assert!(
        said[8].contains("keys of the tenant: at most 5"),
        "{outcome}"
    );
    assert_eq!(said[9], "c d e x y", "{outcome}");
    rig.end().await;

    let mut rig = Rig::with(change).await;
    let outcome = ask(
        &mut rig,
        "acme",
        "later",
        guests::KEEPS,
        json!("get b\nlist"),
    )
    .await;
    assert_eq!(lines(&outcome), ["two", "b m1 n"], "{outcome}");
    rig.end().await;
}

pub(crate) async fn messages_go_below_the_tenants_prefix() {
    let mut rig = Rig::with(|config| {
        let publish = Publish {
            max_messages: 4,
            max_bytes: 1000,
        };
        grant(config, |it| it.publish = Some(publish));
        let default = config.tenants.entry("default".to_owned()).or_default();
        default.capabilities.publish = Some(publish);
    })
    .await;
    let input = "replies/1 hello\nreplies/2 #10\nreplies/3 #990\nreplies/4 four\nreplies/5 five";
    let outcome = ask(&mut rig, "acme", "some", guests::PUBLISHES, json!(input)).await;
    let said = lines(&outcome);
    assert_eq!(said[..2], ["published", "published"], "{outcome}");
    assert_eq!(
        said[2],
        "not published, denied: a task may publish 1000 bytes"
    );
    assert_eq!(said[3..], ["published", "published"], "{outcome}");
    for (topic, payload) in [
        ("tenants/acme/replies/1", b"hello".to_vec()),
        ("tenants/acme/replies/2", vec![b'x'; 10]),
    ] {
        let heard = rig.ear.hear(|inbound| inbound.topic == topic).await;
        assert_eq!(heard.payload, payload);
        assert_eq!(heard.properties.content_type.as_deref(), Some("text/plain"));
    }
    let input = "a 1\na 2\na 3\na 4\na 5";
    let outcome = ask(&mut rig, "default", "many", guests::PUBLISHES, json!(input)).await;
    let last = "not published, denied: a task may publish 4 messages";
    assert_eq!(lines(&outcome)[4], last, "{outcome}");

    for (number, topic) in [
        "task_queue",
        "task_completed",
        "task_reply/x",
        "task_status/x",
        "modules/guest",
        "tenants/other/x",
        "$SYS/x",
        "a/+",
        "#",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("denied-{number}");
        let input = json!(format!("{topic} x"));
        let outcome = ask(&mut rig, "default", &id, guests::PUBLISHES, input).await;
        let said = lines(&outcome);
        assert!(
            said[0].starts_with("not published, denied: "),
            "{topic}: {outcome}"
        );
    }
    rig.end().await;
}

pub(crate) async fn clocks_and_chance() {
    let mut rig = Rig::with(|config| {
        grant(config, |it| (it.clock, it.entropy) = (true, true));
    })
    .await;
    let mut draw = async |tenant: &str, id: &str| {
        let outcome = ask(&mut rig, tenant, id, guests::CHANCE, json!(null)).await;
        let output = outcome["output"].clone();
        assert_eq!(output["right"], "true", "{outcome}");
        output
    };
    let coarse = draw("default", "a").await;
    assert_eq!(coarse["fine"], "false", "{coarse}");
    assert_eq!(draw("acme", "a").await["fine"], "true");
    let (one, other) = (draw("acme", "b").await, draw("acme", "c").await);
    assert_ne!(one["bytes"], other["bytes"]);
    // Another task of the same tenant draws other numbers, also without the grant.
    assert_ne!(coarse["bytes"], draw("default", "b").await["bytes"]);
    rig.end().await;

    // The same task draws the same numbers, wherever and however often it runs.
    let mut rig = Rig::new().await;
    let again = ask(&mut rig, "default", "a", guests::CHANCE, json!(null)).await;
    assert_eq!(again["output"]["bytes"], coarse["bytes"], "{again}");
    assert_eq!(again["output"]["order"], coarse["order"], "{again}");
    rig.end().await;
}

pub(crate) async fn a_scratch_folder_and_its_quota() {
    let state = tempfile::tempdir().expect("a folder");
    let mut rig = Rig::with(|config| {
        config.journal.directory = Some(state.path().to_owned());
        grant(config, |it| it.scratch_bytes = 100_000);
    })
    .await;
    let mut run = async |tenant: &str, id: &str, input: &str| {
        let outcome = ask(&mut rig, tenant, id, guests::SCRATCH, json!(input)).await;
        let said: Vec<String> = lines(&outcome).into_iter().map(str::to_owned).collect();
        said
    };
    let denied = run("default", "none", "write /scratch/a 1\nlist /").await;
    assert!(
        denied.iter().all(|line| line.starts_with("error: ")),
        "{denied:?}"
    );

    let used = run(
        "acme",
        "files",
        "write /scratch/a 50000\nread /scratch/a\nappend /scratch/a 1000\nread /scratch/a\nfolder /scratch/b\n\
         write /scratch/b/c 10\nlist /scratch\ndelete /scratch/a\nlist /scratch\nread /etc/passwd\n\
         read /scratch/../../etc/passwd\nwrite /a 1\nlink /scratch/b/c /scratch/d\nsymlink / /scratch/root",
    )
    .await;
    let expected = [
        "done",
        "50000 bytes",
        "done",
        "51000 bytes",
        "done",
        "done",
        "2 entries",
        "done",
        "1 entries",
    ];
    assert_eq!(used[..9], expected, "{used:?}");
    assert!(
        used[9..].iter().all(|line| line.starts_with("error: ")),
        "{used:?}"
    );

    // Empty again for the next task. What was written over, deleted, or skipped over counts as it should.
    let over = run(
        "acme",
        "over",
        "list /scratch\nwrite /scratch/a 60000\nwrite /scratch/a 60000\nread /scratch/a\nwrite /scratch/b 39000\n\
         write /scratch/c 2000\nread /scratch/c\nappend /scratch/b 5000\nsparse /scratch/s 1000000\n\
         grow /scratch/a 1000000\nwrite /scratch/d 0\ndelete /scratch/a\nwrite /scratch/e 50000",
    )
    .await;
    assert_eq!(over[0], "0 entries", "{over:?}");
    assert_eq!(over[1], "done", "{over:?}");
    // It was truncated, and grew again: 120,000 of growth in all.
    let quota = |line: &str| line.starts_with("error: ") && !line.contains("not found");
    assert!(quota(&over[2]), "{over:?}");
    assert!(quota(&over[5]), "{over:?}");
    assert!(over[7..10].iter().all(|line| quota(line)), "{over:?}");
    assert_eq!(over[10], "done", "{over:?}");
    assert!(quota(&over[12]), "{over:?}");
    let many = run("acme", "many", "files 1100").await;
    assert!(many[0].starts_with("1000 made, then "), "{many:?}");
    rig.stop().await;
    // Folders are removed behind the outcome's back, but they are removed.
    let left = || {
        walk(state.path())
            .into_iter()
            .filter(|it| it.contains("task-"))
            .count()
    };
    for _ in 0..100 {
        if left() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    assert_eq!(left(), 0);
    rig.end().await;
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        }
    }
    found
}

/// `check --tenant` says what a tenant has, and whether a module would be admitted.
pub(crate) async fn check() {
    let shell = Shell::new();
    shell.write("fetch.wasm", guests::FETCH);
    shell.write("keeps.wasm", guests::KEEPS);
    shell.write("echo.wasm", guests::ECHO);
    shell.write(
        "granted.toml",
        b"[runner]\nconcurrency = 7\nunlisted_tenants = \"deny\"\n[tenants.acme.capabilities]\n\
          http = { hosts = [\"api.example.com\", \"*.example.org:8443\"] }\nconfig = { colour = \"green\" }\n\
          secrets = { key = \"env:ACME_KEY\" }\npublish = {}\nscratch_bytes = 1000000\nclock = true\n",
    );
    let mut shown = Vec::new();
    for (arguments, code) in [
        (&["check", "--tenant", "acme"][..], 0),
        (&["check", "--tenant", "acme", "fetch.wasm"], 0),
        (&["check", "--tenant", "acme", "keeps.wasm"], 1),
        (&["check", "--tenant", "default", "echo.wasm"], 0),
        (&["check", "--tenant", "default", "fetch.wasm"], 1),
        (&["check", "--tenant", "nobody", "echo.wasm"], 1),
        (&["check", "--tenant", "acme", "--json", "keeps.wasm"], 1),
    ] {
        let mut command = shell.command(arguments);
        command
            .env("ACME_KEY", "correct-horse")
            .env("WASMQTT_CONFIG", "granted.toml");
        let spawned = command.spawn().expect("started");
        let ended = crate::cli::to_end(spawned, b"").await.code(code);
        assert!(!ended.text().contains("correct-horse"), "{}", ended.text());
        shown.push(format!(
            "$ wasmqtt {}\n{}",
            arguments.join(" "),
            ended.text()
        ));
    }
    // wasi's minor version is the toolchain's.
    let versions = [(r"@0\.2\.\d+ ", "@0.2.[n] ")];
    shown::filtered("check_tenant", &shown.join("\n"), &versions);
}

/// `run` with a configuration: what the tenant has there.
pub(crate) async fn run_with_grants() {
    let shell = Shell::new();
    shell.write("publishes.wasm", guests::PUBLISHES);
    shell.write(
        "granted.toml",
        b"[tenants.acme.capabilities]\npublish = {}\n",
    );
    let run = ["run", "publishes.wasm", "--input", "a/b hello"];
    let ended = shell.call(&run).await.code(1);
    assert!(
        ended.stderr.contains("capability_denied"),
        "{}",
        ended.stderr
    );
    let granted = [&run[..], &["--config", "granted.toml", "--tenant", "acme"]].concat();
    let ended = shell.call(&granted).await.code(0);
    assert_eq!(ended.text(), "published");
    assert!(
        ended.stderr.contains("[publish] a/b: 5 bytes"),
        "{}",
        ended.stderr
    );
}
