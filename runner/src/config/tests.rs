use std::io::Write as _;

use super::*;
use crate::tenants::compile::CompileLimits;

fn load_from(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config> {
    let mut path = tempfile::NamedTempFile::new().expect("a file");
    path.write_all(file.as_bytes()).expect("written");
    let environment: Vec<(String, String)> = environment
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    let flags: Vec<(&str, String)> = flags.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
    load(Some(path.path()), environment.into_iter(), &flags)
}

fn refused(file: &str, environment: &[(&str, &str)]) -> String {
    format!(
        "{:#}",
        load_from(file, environment, &[]).expect_err("refused")
    )
}

#[test]
fn flags_over_environment_over_file_over_defaults() {
    let file = "[runner]\nconcurrency = 2\nbacklog = 5\ndrain_s = 6\n";
    let environment = [
        ("WASMQTT_RUNNER_CONCURRENCY", "3"),
        ("WASMQTT_RUNNER_BACKLOG", "7"),
        ("OTHER", "x"),
    ];
    let config =
        load_from(file, &environment, &[("runner.concurrency", "4")]).expect("a configuration");
    assert_eq!(
        (
            config.runner.concurrency,
            config.runner.backlog,
            config.runner.drain_s
        ),
        (4, 7, 6)
    );
    assert_eq!(config.limits, DefaultLimits::default());
}

#[test]
fn a_password_of_digits_stays_a_text() {
    let config = load_from(
        "",
        &[
            ("WASMQTT_MQTT_USERNAME", "7"),
            ("WASMQTT_MQTT_PASSWORD", "0123"),
        ],
        &[],
    );
    let credentials = config
        .and_then(|config| config.credentials())
        .expect("credentials");
    assert_eq!(credentials, Some(("7".to_owned(), "0123".to_owned())));
}

#[test]
fn what_is_wrong_is_named() {
    for (file, expected) in [
        (
            "[runner]\nconcurency = 1",
            "unknown key `concurency`, did you mean `concurrency`?",
        ),
        ("[runer]\n", "unknown key `runer`, did you mean `runner`?"),
        (
            "[runner]\nconcurrency = 0",
            "`runner.concurrency` must be from 1 to 4000, got 0",
        ),
        (
            "[runner]\nconcurrency = \"many\"",
            "`runner.concurrency`: invalid type",
        ),
        (
            "[limits]\nfuel = 200_000_000_000",
            "`limits.fuel` must be from 1 to `ceilings.fuel` (100000000000), got 200000000000",
        ),
        (
            "[mqtt]\nurl = \"localhost\"",
            "failed to read `mqtt.url`: broker URL \"localhost\"",
        ),
        (
            "[mqtt]\nack_order = \"random\"",
            "`mqtt.ack_order`: unknown variant `random`",
        ),
        ("[tenants.Bad]\n", "failed to read `tenants.Bad`"),
        (
            "[tenants.a]\ndefault_modul = \"x\"",
            "unknown key `default_modul`",
        ),
    ] {
        let message = refused(file, &[]);
        assert!(message.contains(expected), "{file:?}: {message}");
    }
    assert_eq!(
        refused("", &[("WASMQTT_RUNNER_CONCURENCY", "1")]),
        "unknown variable WASMQTT_RUNNER_CONCURENCY, did you mean WASMQTT_RUNNER_CONCURRENCY?"
    );
    assert!(
        refused("", &[("WASMQTT_RUNNER_CONCURRENCY", "x")])
            .contains("`runner.concurrency` must be a number, got \"x\"")
    );
}

#[test]
fn secrets_are_hidden() {
    let config = load_from("[mqtt]\nusername = \"u\"\npassword = \"hunter2\"", &[], &[])
        .expect("a configuration");
    let shown = toml::to_string(&config.without_secrets()).expect("TOML");
    assert!(
        !shown.contains("hunter2") && shown.contains("(hidden)"),
        "{shown}"
    );
}

#[test]
fn users_of_the_embedded_broker() {
    let hash = crate::access::password::PasswordHash::new("hunter2", 1).expect("a hash");
    let user = |rest: &str| format!("[broker.users.shop]\npassword_hash = \"{hash}\"\n{rest}\n");
    let config = load_from(&user("tenant = \"acme\""), &[], &[]).expect("a configuration");
    let users = config.broker_users().expect("users");
    assert!(users[0].access.may_publish("tenants/acme/modules/x"));
    assert!(!users[0].runner && users[0].password.fits(b"hunter2"));
    let shown = toml::to_string(&config.without_secrets()).expect("TOML");
    assert!(!shown.contains(&hash.to_string()), "{shown}");
    for (file, expected) in [
        (user(""), "a user has either a `role` or a `tenant`"),
        (
            user("tenant = \"acme\"\nrole = \"runner\""),
            "a user has either a `role` or a `tenant`",
        ),
        (user("role = \"admin\""), "unknown variant `admin`"),
        (user("tenant = \"A\""), "failed to read `broker.users.shop`"),
        (
            user("role = \"runner\"").replace("shop", "\"a/b\""),
            "`broker.users` are named with",
        ),
        (
            "[broker.users.x]\npassword_hash = \"hunter2\"\nrole = \"runner\"".to_owned(),
            "as `wasmqtt passwd` prints it",
        ),
        (
            "[broker]\nanonymous = true\n".to_owned() + &user("role = \"runner\""),
            "exclude each other",
        ),
        (
            "[broker]\nembedded = true\naddress = \"0.0.0.0:1883\"".to_owned(),
            "is open to others than this machine",
        ),
    ] {
        let message = refused(&file, &[]);
        assert!(
            message.contains(expected) && !message.contains("hunter2"),
            "{file:?}: {message}"
        );
    }
}

/// `examples/wasmqtt.toml` documents every key, with its default: uncommented it is the default configuration.
#[test]
fn the_example_documents_every_key() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/wasmqtt.toml");
    let text = std::fs::read_to_string(path).expect("the example");
    let values: String = text
        .lines()
        .filter(|line| {
            line.starts_with('[')
                || line.starts_with('#') && line.contains(" = ") && !line.starts_with("# ")
        })
        .map(|line| format!("{}\n", line.trim_start_matches('#')))
        .collect();
    let documented: toml::Table = values.parse().expect("TOML");
    let documented = serde_json::to_value(documented).expect("values");
    let defaults = serde_json::to_value(Config::default()).expect("values");
    for (section, keys) in defaults.as_object().expect("sections").iter() {
        for key in keys.as_object().expect("keys").keys() {
            assert!(
                documented[section].get(key).is_some(),
                "`{section}.{key}` is not in examples/wasmqtt.toml"
            );
        }
    }
    let tenant = serde_json::to_value(Tenant::default()).expect("values");
    for key in tenant.as_object().expect("keys").keys() {
        assert!(
            documented["tenants"]["default"].get(key).is_some(),
            "`tenants.NAME.{key}` is not in examples/wasmqtt.toml"
        );
    }
    for key in tenant["compile"].as_object().expect("keys").keys() {
        assert!(
            documented["tenants"]["default"]["compile"]
                .get(key)
                .is_some(),
            "`tenants.NAME.compile.{key}` is not in examples/wasmqtt.toml"
        );
    }
    let capabilities = serde_json::to_value(capabilities::Capabilities::default()).expect("values");
    for key in capabilities.as_object().expect("keys").keys() {
        assert!(
            documented["tenants"]["default"]["capabilities"]
                .get(key)
                .is_some(),
            "`tenants.NAME.capabilities.{key}` is not in examples/wasmqtt.toml"
        );
    }
    let read: Config = serde_json::from_value(documented).expect("every documented key exists");
    assert_eq!(
        (read.limits, read.ceilings),
        (DefaultLimits::default(), Ceilings::default())
    );
    assert_eq!(read.tenants["default"].compile, CompileLimits::default());
    assert_eq!(
        (
            read.mqtt.group,
            read.mqtt.keep_alive_s,
            read.mqtt.session_expiry_s
        ),
        {
            let mqtt = Mqtt::default();
            (mqtt.group, mqtt.keep_alive_s, mqtt.session_expiry_s)
        }
    );
    assert_eq!(read.runner.backlog, Runner::default().backlog);
}
