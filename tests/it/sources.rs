//! Modules from web servers and registries: what is fetched, how often, and what each failure is called.

use std::time::Duration;

use serde_json::{Value, json};
use wasmqtt::config::Config;
use wasmqtt::envelope::Message;
use wasmqtt::modules::Content;
use wasmqtt_tests::guests;

use crate::cli::Shell;
use crate::depot::{self, Answer, DOCKER_AUTH, Depot};
use crate::rig::{Ear, Rig};
use crate::ssrf::Canary;
use crate::under_test::Serve;

/// Two guests that can be told apart: this one answers its input, and [`OTHER`] `attempt 1`.
const ECHO: &[u8] = guests::ECHO;
const OTHER: &[u8] = guests::GUEST_ERROR;

async fn with(depot: &Depot, change: impl FnOnce(&mut Config)) -> Rig {
    Rig::with(|config| {
        depot.permit(config);
        change(config);
    })
    .await
}

async fn ask(rig: &mut Rig, id: &str, module: &str) -> Value {
    rig.task(json!({"id": id, "module": module, "input": "hello"}))
        .await
}

fn digest(module: &[u8]) -> String {
    Content::new(module.to_vec()).digest.to_string()
}

#[track_caller]
fn assert_ran(outcome: &Value, module: &[u8]) {
    assert_eq!(outcome["module_digest"], digest(module), "{outcome}");
    let output = if module == ECHO { "hello" } else { "attempt 1" };
    assert_eq!(outcome["output"], output, "{outcome}");
}

#[track_caller]
fn assert_refused(outcome: &Value, code: &str, says: &str) {
    assert_eq!(outcome["error"]["code"], code, "{outcome}");
    let message = outcome["error"]["message"].as_str().expect("a message");
    assert!(message.contains(says), "no {says:?} in {message}");
}

pub(crate) async fn from_a_web_server() {
    let depot = depot::open().await;
    depot.put("/echo.wasm", Answer::Bytes(ECHO.to_vec()));
    depot.put("/moved", Answer::Redirect("/echo.wasm?v=1".to_owned()));
    depot.put("/echo.wasm?v=1", Answer::Bytes(ECHO.to_vec()));
    let mut rig = with(&depot, |_| {}).await;
    let (right, wrong) = (digest(ECHO), digest(OTHER));
    let url = depot.https("/echo.wasm");
    assert_ran(&ask(&mut rig, "listed", &url).await, ECHO);
    assert_ran(&ask(&mut rig, "moved", &depot.https("/moved")).await, ECHO);
    assert_ran(
        &ask(&mut rig, "pinned", &format!("{url}@{right}")).await,
        ECHO,
    );
    let outcome = ask(&mut rig, "mismatch", &format!("{url}@{wrong}")).await;
    assert_refused(
        &outcome,
        "digest_mismatch",
        &format!("it is {right}, the task pins {wrong}"),
    );
    let outcome = ask(&mut rig, "missing", &depot.https("/nothing")).await;
    assert_refused(&outcome, "module_not_found", "answers 404");

    // A host that is not listed: only with a digest.
    let url = format!("https://localhost:{}/echo.wasm", depot.port);
    let outcome = ask(&mut rig, "unlisted", &url).await;
    assert_refused(
        &outcome,
        "tenant_denied",
        "`https_hosts` does not list localhost:",
    );
    assert_ran(
        &ask(&mut rig, "any-host", &format!("{url}@{right}")).await,
        ECHO,
    );

    // Nothing is granted to who is not named, whatever the default tenant has.
    for tenant in ["unlisted", "acme"] {
        let task = json!({"id": tenant, "module": depot.https("/echo.wasm")});
        let queue = format!("tenants/{tenant}/task_queue");
        rig.publish(Message::new(queue, task.to_string())).await;
        let outcome = rig.ear.outcome(tenant).await;
        assert_refused(
            &outcome,
            "tenant_denied",
            "`sources` does not list \"https\"",
        );
    }
    rig.end().await;
}

/// Many tasks are one fetch; afterwards one question an interval, answered with 304 while nothing changes.
pub(crate) async fn one_fetch_for_many_tasks() {
    let depot = depot::open().await;
    depot.put("/job", Answer::Bytes(ECHO.to_vec()));
    depot.push("acme/job", "1", ECHO, None);
    let mut rig = with(&depot, |config| config.fetch.recheck_s = 2).await;
    let (url, image) = (depot.https("/job"), depot.oci("acme/job:1"));
    let mut ids = Vec::new();
    for number in 0..20 {
        for module in [&url, &image] {
            let id = format!("{}-{number}", &module[..3]);
            let task = json!({"id": id, "module": module, "input": "hello"});
            rig.publish(Message::new("task_queue", task.to_string()))
                .await;
            ids.push(id);
        }
    }
    for id in &ids {
        assert_ran(&rig.ear.outcome(id).await, ECHO);
    }
    let manifest = "/v2/acme/job/manifests/1";
    let blob = format!("/v2/acme/job/blobs/{}", digest(ECHO));
    // A task may come after the interval on a busy machine: then it asked again, and got no bytes.
    assert_eq!(depot.count("/job", 200), 1, "{:#?}", depot.asked());
    assert_eq!(depot.count(&blob, 200), 1, "{:#?}", depot.asked());

    tokio::time::sleep(Duration::from_millis(2500)).await;
    let before = depot.count(manifest, 200);
    for (id, module) in [("url", &url), ("image", &image)] {
        assert_ran(&ask(&mut rig, id, module).await, ECHO);
    }
    assert_eq!(depot.count("/job", 200), 1, "{:#?}", depot.asked());
    assert!(depot.count("/job", 304) >= 1, "{:#?}", depot.asked());
    assert!(depot.count(manifest, 200) > before, "{:#?}", depot.asked());
    assert_eq!(depot.count(&blob, 200), 1, "{:#?}", depot.asked());

    depot.put("/job", Answer::Bytes(OTHER.to_vec()));
    depot.push("acme/job", "1", OTHER, None);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for (id, module) in [("new-url", &url), ("new-image", &image)] {
        assert_ran(&ask(&mut rig, id, module).await, OTHER);
    }
    rig.end().await;
}

/// Each failure is its own, and a server that says nothing delays nobody else.
pub(crate) async fn what_a_web_server_does_wrong() {
    let depot = depot::open().await;
    let whole = || ECHO.to_vec();
    depot.put("/good", Answer::Bytes(whole()));
    let mut cases = Vec::new();
    for (name, answer, code, says) in [
        (
            "truncated",
            Answer::Truncated(whole(), 100),
            "module_unavailable",
            "sent 100 of ",
        ),
        (
            "gzip",
            Answer::Encoded("gzip", vec![0x1f, 0x8b, 8]),
            "module_invalid",
            "content-encoding \"gzip\"",
        ),
        (
            "endless",
            Answer::Endless,
            "module_too_costly",
            "sends more than 2000000 bytes",
        ),
        (
            "large",
            Answer::Bytes(vec![0; 2_000_001]),
            "module_too_costly",
            "sends more than 2000000 bytes",
        ),
        (
            "down",
            Answer::Status(503),
            "module_unavailable",
            "answers 503",
        ),
        (
            "loop",
            Answer::Redirect("/loop".to_owned()),
            "module_unavailable",
            "redirected more than 5 times",
        ),
        (
            "plain",
            Answer::Redirect("http://127.0.0.1/".to_owned()),
            "tenant_denied",
            "that is not https",
        ),
        (
            "garbage",
            Answer::Bytes(b"<html>".to_vec()),
            "module_invalid",
            "",
        ),
    ] {
        depot.put(&format!("/{name}"), answer);
        cases.push((name, code, says));
    }
    let mut rig = with(&depot, |config| {
        let tenant = config.tenants.entry("default".to_owned()).or_default();
        tenant.ceilings.module_bytes = Some(2_000_000);
    })
    .await;
    for (name, ..) in &cases {
        let task = json!({"id": name, "module": depot.https(&format!("/{name}"))});
        rig.publish(Message::new("task_queue", task.to_string()))
            .await;
    }
    assert_ran(&ask(&mut rig, "good", &depot.https("/good")).await, ECHO);
    for (name, code, says) in cases {
        assert_refused(&rig.ear.outcome(name).await, code, says);
    }
    depot.put("/stalled", Answer::Stalled(whole(), 100));
    let outcome = ask(&mut rig, "stalled", &depot.https("/stalled")).await;
    let says = format!("said nothing for 2 s, after 100 of {}", ECHO.len());
    assert_refused(&outcome, "module_unavailable", &says);
    // At a host of its own: two find out that it says nothing, and those behind them are told.
    let mut said = Vec::new();
    for number in 0..4 {
        let path = format!("/silent-{number}");
        depot.put(&path, Answer::Silent);
        let module = format!("https://localhost:{}{path}@{}", depot.port, digest(ECHO));
        let task = json!({"id": path[1..], "module": module});
        rig.publish(Message::new("task_queue", task.to_string()))
            .await;
    }
    for number in 0..4 {
        let outcome = rig.ear.outcome(&format!("silent-{number}")).await;
        assert_refused(&outcome, "module_unavailable", "said nothing for 2 s");
        said.push(outcome["error"]["message"].to_string());
    }
    let told = said.iter().filter(|it| it.contains("a moment ago: "));
    assert_eq!(told.count(), 2, "{said:#?}");
    rig.end().await;
}

/// Bar 4: a registry that does it right, and every way of doing it wrong.
pub(crate) async fn from_a_registry() {
    let depot = depot::open().await;
    let first = depot.push("acme/job", "1", ECHO, None);
    depot.push("acme/job", "latest", ECHO, None);
    let older = "application/vnd.module.wasm.content.layer.v1+wasm";
    let older = json!([{"mediaType": older, "digest": digest(ECHO), "size": ECHO.len()}]);
    depot.push_layers("acme/job", "older", older, None);
    let blob = format!("/v2/acme/job/blobs/{}", digest(ECHO));
    depot.put(
        &blob,
        Answer::Redirect("/store/echo?signature=x".to_owned()),
    );
    depot.put("/store/echo?signature=x", Answer::Bytes(ECHO.to_vec()));
    let mut rig = with(&depot, |config| config.fetch.recheck_s = 1).await;
    for (id, module) in [
        ("tag", "acme/job:1".to_owned()),
        ("latest", "acme/job".to_owned()),
        ("older", "acme/job:older".to_owned()),
        ("digest", format!("acme/job@{first}")),
        ("both", format!("acme/job:1@{first}")),
    ] {
        assert_ran(&ask(&mut rig, id, &depot.oci(&module)).await, ECHO);
    }
    let outcome = ask(&mut rig, "missing", &depot.oci("acme/job:2")).await;
    assert_refused(&outcome, "module_not_found", "answers 404");
    let elsewhere = format!("oci://localhost:{}/acme/job:1", depot.port);
    let outcome = ask(&mut rig, "elsewhere", &elsewhere).await;
    assert_refused(
        &outcome,
        "tenant_denied",
        "`registries` does not list localhost:",
    );

    // The tag moves: who pinned it is told, who pinned the manifest alone goes on.
    let second = depot.push("acme/job", "1", OTHER, None);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let outcome = ask(
        &mut rig,
        "moved",
        &depot.oci(&format!("acme/job:1@{first}")),
    )
    .await;
    let says = format!("the manifest of tag \"1\" is {second}, the task pins {first}");
    assert_refused(&outcome, "digest_mismatch", &says);
    let outcome = ask(&mut rig, "still", &depot.oci(&format!("acme/job@{first}"))).await;
    assert_ran(&outcome, ECHO);
    assert_ran(
        &ask(&mut rig, "anew", &depot.oci("acme/job:1")).await,
        OTHER,
    );
    rig.end().await;
}

pub(crate) async fn what_a_registry_does_wrong() {
    let depot = depot::open().await;
    depot.push("good", "1", ECHO, None);
    let size = ECHO.len();
    let layer = digest(ECHO);
    let mut cases = Vec::new();
    for (name, answer, code, says) in [
        (
            "truncated",
            Answer::Truncated(ECHO.to_vec(), 100),
            "module_unavailable",
            format!("sent 100 of {size} bytes"),
        ),
        (
            "short",
            Answer::Bytes(ECHO[..100].to_vec()),
            "module_unavailable",
            format!("ended after 100 of {size} bytes"),
        ),
        (
            "long",
            Answer::Bytes([ECHO, b"x"].concat()),
            "module_too_costly",
            format!("sends more than {size} bytes"),
        ),
        (
            "gzip",
            Answer::Encoded("gzip", vec![0x1f, 0x8b, 8]),
            "module_invalid",
            "content-encoding \"gzip\"".to_owned(),
        ),
        (
            "gone",
            Answer::Status(404),
            "module_not_found",
            "answers 404".to_owned(),
        ),
    ] {
        depot.push(name, "1", ECHO, None);
        depot.put(&format!("/v2/{name}/blobs/{layer}"), answer);
        cases.push((name.to_owned(), code, says));
    }
    // A blob that is another one of the same length.
    let mut lie = ECHO.to_vec();
    lie[size - 1] ^= 1;
    depot.push("lying", "1", ECHO, None);
    let says = format!("its layer is {}, its manifest says {layer}", digest(&lie));
    depot.put(&format!("/v2/lying/blobs/{layer}"), Answer::Bytes(lie));
    cases.push(("lying".to_owned(), "digest_mismatch", says));
    // Manifests that are none, and one under another's digest.
    let foreign = depot.push("foreign", "1", OTHER, None);
    let meant = depot.push("foreign", "2", ECHO, None);
    let manifest = format!("/v2/foreign/manifests/{meant}");
    let other = json!({"schemaVersion": 2, "layers": []}).to_string();
    depot.put(&manifest, Answer::Bytes(other.clone().into_bytes()));
    let wasm = json!({"mediaType": "application/wasm", "digest": layer, "size": size});
    let tar = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": size});
    depot.push_layers("two", "1", json!([wasm, wasm]), None);
    depot.push_layers("tar", "1", json!([tar]), None);
    let huge = json!({"mediaType": "application/wasm", "digest": layer, "size": u64::MAX});
    depot.push_layers("huge", "1", json!([huge]), None);
    let odd = json!({"mediaType": "application/wasm", "digest": "sha256:../../secrets", "size": 1});
    depot.push_layers("odd", "1", json!([odd]), None);
    depot.put("/v2/html/manifests/1", Answer::Bytes(b"<html>".to_vec()));
    depot.put("/v2/endless/manifests/1", Answer::Endless);
    depot.put("/v2/packed/manifests/1", Answer::Encoded("zstd", vec![1]));
    for (name, code, says) in [
        ("two", "module_invalid", "not one layer of application/wasm"),
        ("tar", "module_invalid", "layer.v1.tar+gzip"),
        (
            "huge",
            "module_too_costly",
            "its layer has 18446744073709551615 bytes",
        ),
        ("odd", "module_invalid", "its layer's digest is no sha256"),
        ("html", "module_invalid", "is none of a module"),
        (
            "endless",
            "module_too_costly",
            "sends more than 1048576 bytes",
        ),
        ("packed", "module_invalid", "content-encoding \"zstd\""),
    ] {
        cases.push((name.to_owned(), code, says.to_owned()));
    }
    let mut rig = with(&depot, |config| {
        let tenant = config.tenants.entry("default".to_owned()).or_default();
        tenant.registries.push(format!("localhost:{}", depot.port));
    })
    .await;
    for (name, ..) in &cases {
        let task = json!({"id": name, "module": depot.oci(&format!("{name}:1"))});
        rig.publish(Message::new("task_queue", task.to_string()))
            .await;
    }
    assert_ran(&ask(&mut rig, "good", &depot.oci("good:1")).await, ECHO);
    for (name, code, says) in cases {
        assert_refused(&rig.ear.outcome(&name).await, code, &says);
    }
    assert_ne!(foreign, meant);
    let outcome = ask(&mut rig, "foreign", &depot.oci(&format!("foreign@{meant}"))).await;
    let says = format!(
        "the manifest is {}, the task pins {meant}",
        digest(other.as_bytes())
    );
    assert_refused(&outcome, "digest_mismatch", &says);
    // What says nothing, each at a name of its own.
    depot.push("stalled", "1", ECHO, None);
    let answer = Answer::Stalled(ECHO.to_vec(), 100);
    depot.put(&format!("/v2/stalled/blobs/{layer}"), answer);
    let outcome = ask(&mut rig, "stalled", &depot.oci("stalled:1")).await;
    let says = format!("said nothing for 2 s, after 100 of {size}");
    assert_refused(&outcome, "module_unavailable", &says);
    depot.put("/v2/silent/manifests/1", Answer::Silent);
    let silent = format!("oci://localhost:{}/silent:1", depot.port);
    let outcome = ask(&mut rig, "silent", &silent).await;
    assert_refused(&outcome, "module_unavailable", "said nothing for 2 s");
    rig.end().await;
}

/// The token of Docker's configuration is asked for, and told to nobody but the registry.
pub(crate) async fn a_registry_that_wants_to_know_who_asks() {
    let depot = depot::open().await;
    depot.push("private/job", "1", ECHO, None);
    let blob = format!("/v2/private/job/blobs/{}", digest(ECHO));
    let store = format!("https://localhost:{}/store", depot.port);
    depot.put(&blob, Answer::Redirect(store));
    depot.put("/store", Answer::Bytes(ECHO.to_vec()));
    depot.want_token();
    let module = depot.oci("private/job:1");
    let mut rig = with(&depot, |_| {}).await;
    let outcome = ask(&mut rig, "nobody", &module).await;
    assert_refused(&outcome, "module_unavailable", "gives no token: 403");
    rig.end().await;

    let folder = logged_in(&depot);
    let mut rig = with(&depot, |config| {
        config.fetch.docker_config = Some(folder.path().to_owned());
    })
    .await;
    assert_ran(&ask(&mut rig, "somebody", &module).await, ECHO);
    for asked in depot.asked() {
        let told = asked.head.contains("authorization: bearer");
        let home = asked.path.starts_with("/v2/") && asked.answered != 401;
        assert_eq!(told, home, "{asked:?}");
    }
    rig.end().await;
}

/// A registry that anybody may read, and a store behind it that names who is to be told the credentials.
pub(crate) async fn a_store_is_told_no_credentials() {
    let depot = depot::open().await;
    depot.push("acme/job", "1", ECHO, None);
    let blob = format!("/v2/acme/job/blobs/{}", digest(ECHO));
    let store = format!("localhost:{}", depot.port);
    depot.put(&blob, Answer::Redirect(format!("https://{store}/store")));
    depot.put("/store", Answer::Challenge);
    let folder = logged_in(&depot);
    let mut rig = with(&depot, |config| {
        config.fetch.docker_config = Some(folder.path().to_owned());
    })
    .await;
    let outcome = ask(&mut rig, "store", &depot.oci("acme/job:1")).await;
    let says = format!("{store} answers 401");
    assert_refused(&outcome, "module_unavailable", &says);
    assert_eq!(depot.count("/store", 401), 1, "{:#?}", depot.asked());
    let told = |asked: &depot::Asked| asked.head.contains("authorization:");
    assert!(!depot.asked().iter().any(told), "{:#?}", depot.asked());
    rig.end().await;
}

/// A folder with Docker's configuration, which has the depot's user and password.
fn logged_in(depot: &Depot) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let auths = json!({"auths": {format!("127.0.0.1:{}", depot.port): {"auth": DOCKER_AUTH}}});
    std::fs::write(folder.path().join("config.json"), auths.to_string()).expect("written");
    folder
}

/// With a credential helper that has nothing for this registry, which is no failure; the log has what a tag meant.
pub(crate) async fn a_credential_helper_that_has_nothing() {
    let depot = depot::open().await;
    let manifest = depot.push("acme/job", "1", ECHO, None);
    let shell = Shell::new();
    shell.write("config.json", br#"{"credsStore": "that-has-nothing"}"#);
    let script =
        "#!/bin/sh\ncat > /dev/null\necho credentials not found in native keychain\nexit 1\n";
    let helper = shell.path().join("docker-credential-that-has-nothing");
    std::fs::write(&helper, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&helper, mode).expect("changed");
    let here = format!("127.0.0.1:{}", depot.port);
    let settings = format!(
        "[fetch]\nca_file = {:?}\ndocker_config = {:?}\nprivate_addresses = [{here:?}]\n\
         [retry]\nmax_attempts = 1\n\
         [tenants.default]\nsources = [\"oci\"]\nregistries = [{here:?}]\n",
        depot.ca_file(),
        shell.path()
    );
    shell.write("fetch.toml", settings.as_bytes());
    let file = shell.path().join("fetch.toml").display().to_string();
    let arguments = ["--embedded-broker", "127.0.0.1:0", "--config", &file];
    let mut serve = Serve::ready_with(&arguments, |mut command| {
        let path = std::env::var("PATH").expect("a path");
        command.env("PATH", format!("{}:{path}", shell.path().display()));
        command
    })
    .await;
    let mut ear = Ear::connect(&serve.url()).await;
    let ask = async |ear: &mut Ear, id: &str, repository: &str| {
        let task = json!({"id": id, "module": depot.oci(repository), "input": "hello"});
        let task = Message::new("task_queue", task.to_string());
        ear.publisher.publish(task).await.expect("a PUBACK");
        ear.outcome(id).await
    };
    assert_ran(&ask(&mut ear, "public", "acme/job:1").await, ECHO);
    serve.logs(&format!("manifest=\"{manifest}\"")).await;
    depot.want_token();
    depot.push("private/job", "1", ECHO, None);
    let outcome = ask(&mut ear, "private", "private/job:1").await;
    assert_refused(&outcome, "module_unavailable", "gives no token: 403");
    ear.publisher.close().await;
    serve.end().await;
}

/// A reference, or a redirect, to where the tenant has no business: nobody there hears of it.
pub(crate) async fn fetching_reaches_nothing_inside() {
    let (depot, canary) = (depot::open().await, Canary::listen().await);
    let pin = format!("@{}", digest(ECHO));
    let inside = |host: &str| format!("https://{host}:{}/x", canary.port);
    let hosts = [
        "127.0.0.1",
        "localhost",
        "127.0.0.2",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "user@127.0.0.1",
        "127.0.0.1\\@example.com",
        "169.254.169.254",
        "10.0.0.1",
    ];
    let mut rig = with(&depot, |config| {
        // Listed is not enough: the address must be public too.
        let tenant = config.tenants.entry("default".to_owned()).or_default();
        for host in ["127.0.0.1", "localhost", "127.0.0.2", "[::1]"] {
            tenant.https_hosts.push(format!("{host}:{}", canary.port));
        }
    })
    .await;
    let mut number = 0;
    for host in hosts {
        depot.put(&format!("/to-{number}"), Answer::Redirect(inside(host)));
        let direct = [format!("{}{pin}", inside(host)), inside(host)];
        let redirected = depot.https(&format!("/to-{number}"));
        for module in direct
            .into_iter()
            .chain([redirected.clone(), redirected + &pin])
        {
            number += 1;
            let outcome = ask(&mut rig, &format!("try-{number}"), &module).await;
            let code = outcome["error"]["code"].as_str().unwrap_or_default();
            assert!(
                ["tenant_denied", "invalid_task"].contains(&code),
                "{module}: {outcome}"
            );
        }
    }
    for location in [
        format!("http://127.0.0.1:{}/x", canary.port),
        format!("//127.0.0.1:{}/x", canary.port),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
    ] {
        number += 1;
        let path = format!("/odd-{number}");
        depot.put(&path, Answer::Redirect(location.clone()));
        let outcome = ask(&mut rig, &format!("odd-{number}"), &depot.https(&path)).await;
        assert!(
            outcome["error"]["code"].is_string(),
            "{location}: {outcome}"
        );
    }
    // A registry's redirect may leave it, but not for the inside.
    depot.push("acme/job", "1", ECHO, None);
    let blob = format!("/v2/acme/job/blobs/{}", digest(ECHO));
    depot.put(&blob, Answer::Redirect(inside("127.0.0.1")));
    let outcome = ask(&mut rig, "blob", &depot.oci("acme/job:1")).await;
    assert_refused(&outcome, "tenant_denied", "not public");
    assert_eq!(canary.heard(), 0);
    rig.end().await;
}

/// What was fetched before does while its source is down, where the tenant may have that.
pub(crate) async fn a_source_that_is_down() {
    for stale in [false, true] {
        let depot = depot::open().await;
        depot.put("/job", Answer::Bytes(ECHO.to_vec()));
        depot.put("/mine", Answer::Bytes(ECHO.to_vec()));
        let mut rig = with(&depot, |config| {
            config.fetch.recheck_s = 1;
            let tenant = config.tenants.entry("default".to_owned()).or_default();
            tenant.stale_modules = stale;
        })
        .await;
        let module = depot.https("/job");
        assert_ran(&ask(&mut rig, "up", &module).await, ECHO);
        assert_ran(&ask(&mut rig, "mine", &depot.https("/mine")).await, ECHO);
        depot.put("/job", Answer::Status(500));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let outcome = ask(&mut rig, "down", &module).await;
        match stale {
            true => assert_ran(&outcome, ECHO),
            false => assert_refused(&outcome, "module_unavailable", "answers 500"),
        }
        // Up, and it says no: what was fetched before is not to be had any more, whatever becomes of it.
        for (status, says) in [(403, "answers 403"), (500, "answers 500")] {
            depot.put("/mine", Answer::Status(status));
            let outcome = ask(&mut rig, &format!("mine-{status}"), &depot.https("/mine")).await;
            assert_refused(&outcome, "module_unavailable", says);
        }
        // Never fetched before: nothing to do with.
        let outcome = ask(&mut rig, "new", &depot.https("/job?new")).await;
        assert_refused(&outcome, "module_not_found", "answers 404");
        rig.end().await;
    }
}

/// A registry that says nothing, asked for more than it may hold up: other hosts, other sources and other tenants go on.
pub(crate) async fn a_stalling_registry_delays_nobody() {
    let depot = depot::open().await;
    depot.put("/job", Answer::Bytes(ECHO.to_vec()));
    let mut rig = with(&depot, |config| {
        config.fetch.stall_s = 60;
        config.runner.prefetch = 100;
        config.runner.drain_s = 1;
        let tenant = config.tenants.entry("default".to_owned()).or_default();
        tenant.https_hosts.push(format!("localhost:{}", depot.port));
        let acme = tenant.clone();
        config.tenants.insert("acme".to_owned(), acme);
    })
    .await;
    for number in 0..20 {
        let repository = format!("stalling-{number}");
        depot.put(&format!("/v2/{repository}/manifests/1"), Answer::Silent);
        let task = json!({"id": repository, "module": depot.oci(&format!("{repository}:1"))});
        rig.publish(Message::new("task_queue", task.to_string()))
            .await;
    }
    rig.push("by-name", ECHO).await;
    let by_name = ask(&mut rig, "by-name", "by-name").await;
    assert_ran(&by_name, ECHO);
    let other_host = format!("https://localhost:{}/job", depot.port);
    assert_ran(&ask(&mut rig, "other-host", &other_host).await, ECHO);
    let task = json!({"id": "other-tenant", "module": depot.https("/job"), "input": "hello"});
    rig.publish(Message::new("tenants/acme/task_queue", task.to_string()))
        .await;
    assert_ran(&rig.ear.outcome("other-tenant").await, ECHO);
    let ended = rig.ear.unasked(|heard| heard.topic == "task_completed");
    assert!(ended.is_empty(), "{ended:?}");
    rig.end().await;
}
