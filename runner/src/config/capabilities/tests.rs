use std::io::Write as _;

use super::*;
use crate::grants::Capability;

fn read(text: &str) -> Capabilities {
    toml::from_str(text).expect("capabilities")
}

#[test]
fn nothing_is_granted_by_default() {
    let grants = read("").grants(Secrets::Read).expect("grants");
    assert_eq!(grants, Grants::default());
    assert!(Capability::ALL.iter().all(|it| !grants.has(*it)));
}

#[test]
fn what_is_named_is_granted() {
    let grants = read(
        "keyvalue = {}\npublish = {}\nscratch_bytes = 1\nclock = true\nentropy = true\n\
         config = { a = \"b\" }\nhttp = { hosts = [\"example.com\"] }",
    );
    let grants = grants.grants(Secrets::Read).expect("grants");
    assert!(Capability::ALL.iter().all(|it| grants.has(*it)));
}

#[test]
fn secrets_are_read_when_they_are_needed_and_never_shown() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "hunter22").expect("written");
    let source = format!("secrets = {{ key = \"@{}\" }}", file.path().display());
    let grants = read(&source).grants(Secrets::Read).expect("grants");
    let values = grants.config.expect("values");
    assert_eq!(values.secrets["key"].expose(), "hunter22");

    let missing = read("secrets = { key = \"@/nowhere\" }");
    assert!(missing.grants(Secrets::Leave).is_ok());
    let error = missing.grants(Secrets::Read).expect_err("no such file");
    assert!(format!("{error:#}").contains("/nowhere"), "{error:#}");

    let itself = read("secrets = { key = \"hunter22\" }");
    let error = itself.grants(Secrets::Leave).expect_err("no source");
    assert!(!format!("{error:#}").contains("hunter22"), "{error:#}");
    let shown = format!("{:?}", itself.without_secrets());
    assert!(!shown.contains("hunter22"), "{shown}");
}

#[test]
fn what_is_wrong_is_named() {
    for (text, expected) in [
        ("http = {}", "`hosts` must name at least one"),
        ("http = { hosts = [\"a/b\"] }", "`hosts`: a host is made of"),
        (
            "http = { hosts = [\"a\"], private_addresses = [\"b\"] }",
            "`private_addresses`: expected ADDRESS",
        ),
        (
            "keyvalue = { max_value_bytes = 2000000 }",
            "`max_value_bytes` must be from 1 to 1048576",
        ),
        (
            "config = { a = \"b\" }\nsecrets = { a = \"env:A\" }",
            "`a` is in `config` and in `secrets`",
        ),
    ] {
        let error = read(text).grants(Secrets::Leave).expect_err(text);
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{error}");
    }
}
