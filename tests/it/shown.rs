//! How a message is shown in a snapshot: as it was on the wire, a field a line, without what changes from run to
//! run (times, measurements, digests, generated ids).

use wasmqtt::envelope::Inbound;

/// What changes from run to run, and what stands for it.
const CHANGES: &[(&str, &str)] = &[
    (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]"),
    (r"sha256:[0-9a-f]{64}", "sha256:[digest]"),
    (
        r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}",
        "[uuid]",
    ),
    (
        r#""(fuel|peak_memory_bytes|queued_ms|run_ms|cpu_ms)":[0-9.e-]+"#,
        r#""$1":[n]"#,
    ),
    (
        r"(?m)^(fuel|peak_memory_bytes|queued_ms|run_ms|cpu_ms)=[0-9.e-]+$",
        "$1=[n]",
    ),
    (r"test-\d+", "[runner]"),
    (r"0x[0-9a-f]+ - ", "[offset] - "),
];

/// A JSON payload.
pub(crate) fn payload(inbound: &Inbound) -> String {
    let text = String::from_utf8_lossy(&inbound.payload);
    format!("{}\n{}", inbound.topic, text.replace(",\"", ",\n\""))
}

/// The properties, and the payload's bytes.
pub(crate) fn message(inbound: &Inbound) -> String {
    let properties = &inbound.properties;
    let mut lines = vec![
        inbound.topic.clone(),
        format!("payload: {:?}", inbound.payload),
        format!("Content Type: {:?}", properties.content_type),
        format!("Correlation Data: {:?}", properties.correlation_data),
    ];
    let user = properties.user.iter();
    lines.extend(user.map(|(name, value)| format!("{name}={value}")));
    lines.join("\n")
}

/// Compares messages with their snapshot, beside this file.
pub(crate) fn same(name: &str, text: &str) {
    filtered(name, text, CHANGES);
}

/// Compares a text that is always the same with its snapshot.
pub(crate) fn exactly(name: &str, text: &str) {
    filtered(name, text, &[]);
}

/// The same, but for what the filters (expression and what stands for it) replace.
pub(crate) fn filtered(name: &str, text: &str, filters: &[(&str, &str)]) {
    insta::with_settings!({
        filters => filters.iter().copied(),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}
