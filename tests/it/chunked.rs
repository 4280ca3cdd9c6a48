//! Modules in chunks: through a broker whose packets are smaller, and refused by digest when a chunk is not what it was.

use serde_json::{Value, json};
use wasmqtt::modules::Content;
use wasmqtt::modules::source::chunks::Manifest;
use wasmqtt_tests::guests;

use crate::cli::Shell;
use crate::rig::{Ear, Rig, config, retained};
use crate::stock::Mosquitto;

const ECHO: &[u8] = guests::ECHO;
const MODULE_BYTES: usize = 12_000_000;
const PACKET_BYTES: usize = 1 << 20;

async fn ask(rig: &mut Rig, id: &str) -> Value {
    rig.task(json!({"id": id, "module": "job", "input": "hello"}))
        .await
}

/// The echo, with so many bytes that nobody reads and nobody can pack.
fn large(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let noise = (0..bytes).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    let mut section = vec![5];
    section.extend(b"noise");
    section.extend(noise);
    let mut module = [ECHO, &[0]].concat();
    let mut length = section.len();
    while length >= 0x80 {
        module.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    module.push(length as u8);
    module.extend(section);
    module
}

/// Bar 5: 12 MB through mosquitto with packets of 1 MB; then another version, and nothing of the first is left.
pub(crate) async fn twelve_megabytes_through_mosquitto() {
    let limits = format!("max_packet_size {PACKET_BYTES}\nmessage_size_limit {PACKET_BYTES}\n");
    let broker = Mosquitto::with(|_| limits).await;
    let shell = Shell::new();
    let mut rig = Rig::on(config(&broker.url())).await;
    let url = broker.url();
    let mut chunks = Vec::new();
    // As large as the broker takes them, and 733 of them.
    let cuts: [&[&str]; 2] = [&[], &["--chunk-bytes", "16KiB"]];
    for (version, cut) in (1..).zip(cuts) {
        let module = large(MODULE_BYTES, version);
        shell.write("job.wasm", &module);
        let push = ["push", "job.wasm", "--json", "--broker", &url];
        let push = [&push, cut].concat();
        let pushed = shell.call(&push).await.code(0).json();
        assert!(pushed["chunks"].as_u64() >= Some(12), "{pushed}");
        chunks.push(pushed["chunks"].as_u64());
        let digest = Content::new(module).digest.to_string();
        assert_eq!(pushed["digest"], digest.as_str(), "{pushed}");
        let found = tokio::time::timeout(crate::rig::PATIENCE, async {
            for number in 0.. {
                let outcome = ask(&mut rig, &format!("{version}-{number}")).await;
                assert_eq!(outcome["output"], "hello", "{outcome}");
                if outcome["module_digest"] == digest.as_str() {
                    return;
                }
            }
        });
        found.await.expect("in time");
    }
    // What the broker keeps: the manifest and the second version's chunks.
    let mut ear = Ear::hearing(&url, &["modules/#"]).await;
    for _ in 0..=chunks[1].expect("a count") {
        ear.hear(|_| true).await;
    }
    let more = tokio::time::timeout(std::time::Duration::from_millis(500), ear.hear(|_| true));
    assert!(more.await.is_err(), "a chunk of the first version is left");
    ear.publisher.close().await;
    rig.end().await;
}

/// By hand, on the embedded broker: everything that can be wrong with chunks.
pub(crate) async fn what_is_wrong_with_chunks() {
    let mut rig = Rig::with(|config| {
        config.modules.lookup_ms = 300;
        config.retry.max_attempts = 1;
        let tenant = config.tenants.entry("default".to_owned()).or_default();
        tenant.ceilings.module_bytes = Some(1 << 20);
    })
    .await;
    let module = Content::new(large(100_000, 7));
    let size = module.bytes.len().div_ceil(4);
    let (manifest, pieces) = Manifest::cut(&module, size);
    let publish = async |rig: &Rig, name: &str, manifest: &str, pieces: &[(String, Vec<u8>)]| {
        for (hex, bytes) in pieces {
            let chunk = retained(&format!("modules/{name}/{hex}"), bytes.clone());
            rig.publish(chunk).await;
        }
        let manifest = retained(&format!("modules/{name}"), manifest.to_owned());
        rig.publish(manifest).await;
    };
    let right: Vec<(String, Vec<u8>)> = pieces
        .iter()
        .map(|piece| (piece.digest.hex(), piece.bytes.to_vec()))
        .collect();
    publish(&rig, "job", &manifest.to_json(), &right).await;
    let outcome = ask(&mut rig, "right").await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    assert_eq!(
        outcome["module_digest"],
        module.digest.to_string(),
        "{outcome}"
    );

    let mut broken = right.clone();
    broken[1].1[17] ^= 1;
    let mut exchanged = right.clone();
    let (first, second) = (exchanged[0].1.clone(), exchanged[1].1.clone());
    (exchanged[0].1, exchanged[1].1) = (second, first);
    let mut shortened = right.clone();
    shortened[3].1.pop();
    let mut reordered = manifest.clone();
    reordered.chunks.swap(0, 1);
    let mut another = manifest.clone();
    another.digest = Content::new(ECHO).digest;
    let mut twice = manifest.clone();
    twice.chunks[1] = twice.chunks[0];
    let (whole, chunk) = (manifest.to_json(), |number| format!("chunk {number} of 4"));
    let huge = whole.replace(&format!("\"bytes\":{size}}}"), "\"bytes\":3000000000}");
    let sum = 3 * 3_000_000_000_u64 + pieces[3].bytes.len() as u64;
    let huge = huge.replace(
        &format!("\"bytes\":{}", module.bytes.len()),
        &format!("\"bytes\":{sum}"),
    );
    for (name, manifest, pieces, code, says) in [
        ("broken", &whole, &broken[..], "digest_mismatch", chunk(2)),
        ("exchanged", &whole, &exchanged, "digest_mismatch", chunk(1)),
        ("shortened", &whole, &shortened, "digest_mismatch", chunk(4)),
        (
            "missing",
            &whole,
            &right[..3],
            "module_unavailable",
            chunk(4),
        ),
        (
            "reordered",
            &reordered.to_json(),
            &right,
            "digest_mismatch",
            "the 4 chunks of".to_owned(),
        ),
        (
            "another",
            &another.to_json(),
            &right,
            "digest_mismatch",
            "the 4 chunks of".to_owned(),
        ),
        (
            "twice",
            &twice.to_json(),
            &right,
            "digest_mismatch",
            "the 4 chunks of".to_owned(),
        ),
        (
            "huge",
            &huge,
            &right,
            "module_too_costly",
            "of at most 1048576".to_owned(),
        ),
        (
            "odd",
            &"{\"a\":1}".to_owned(),
            &[],
            "module_invalid",
            "neither a module nor a manifest".to_owned(),
        ),
    ] {
        publish(&rig, name, manifest, pieces).await;
        let outcome = rig.task(json!({"id": name, "module": name})).await;
        assert_eq!(outcome["error"]["code"], code, "{name}: {outcome}");
        let message = outcome["error"]["message"].as_str().expect("a message");
        assert!(message.contains(&says), "{name}: {message}");
        assert_eq!(outcome["module_digest"], Value::Null, "{name}: {outcome}");
    }
    // The missing chunk comes: the next task finds it, and nothing is remembered against the module.
    let (hex, bytes) = right[3].clone();
    rig.publish(retained(&format!("modules/missing/{hex}"), bytes))
        .await;
    let outcome = rig
        .task(json!({"id": "come", "module": "missing", "input": "hello"}))
        .await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    // In one piece again, pushed over the chunks: they go.
    let shell = Shell::new();
    shell.write("job.wasm", ECHO);
    let push = [
        "push",
        "job.wasm",
        "--json",
        "--broker",
        &rig.config.mqtt.url,
    ];
    let pushed = shell.call(&push).await.code(0).json();
    assert_eq!(pushed["chunks"], 0, "{pushed}");
    let mut ear = Ear::hearing(&rig.config.mqtt.url, &["modules/job/+"]).await;
    let left = tokio::time::timeout(std::time::Duration::from_millis(500), ear.hear(|_| true));
    assert!(left.await.is_err(), "chunks are left");
    ear.publisher.close().await;
    rig.end().await;
}
