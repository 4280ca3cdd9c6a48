//! One task of the no-op guest: fresh store, instantiation, call with 256 bytes in and out, drop.
//!
//! `execute` is the sandbox alone, on the calling thread; `run` adds the hand-over to the guests' threads and
//! back. Run with `cargo bench -p wasmqtt --profile dist`.

use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use wasmqtt::modules;
use wasmqtt::relay::Relay;
use wasmqtt::sandbox::engine::{Engine, Sizes};
use wasmqtt::sandbox::host::types::Context;
use wasmqtt::sandbox::{Job, Sandbox, execute};
use wasmqtt::task::limits::{LimitValues, RequestedLimits};
use wasmqtt::task::tenant::TenantId;

fn job() -> Job {
    let values = LimitValues {
        fuel: 1_000_000_000,
        memory_bytes: 64 << 20,
        timeout_ms: 10_000,
        output_bytes: 1 << 20,
    };
    Job {
        context: Context {
            id: "01a203ed-b6b2-76a6-89d1-e200db990bd0".to_owned(),
            tenant: "default".to_owned(),
            module: "echo".to_owned(),
            attempt: 1,
            content_type: None,
            deadline_ms: 0,
            labels: Vec::new(),
        },
        input: vec![b'x'; 256].into(),
        limits: RequestedLimits::default()
            .resolve(&values, &values)
            .expect("limits"),
        tenant: TenantId::default(),
        weight: 1,
        grants: Arc::default(),
        messages: None,
    }
}

fn sandbox(criterion: &mut Criterion) {
    let engine = Arc::new(
        Engine::new(Sizes {
            guests: 32,
            memory_bytes: 256 << 20,
        })
        .expect("an engine"),
    );
    let services = Arc::default();
    let sandbox = Sandbox::new(engine.clone(), 1).expect("a sandbox");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let guests = [
        ("echo", wasmqtt_examples::ECHO),
        ("csv-stats", example("csv-stats")),
    ];
    for (name, bytes) in guests {
        let module = Arc::new(modules::compile(&engine, bytes).expect("a module"));
        criterion.bench_function(&format!("execute/{name}"), |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let ran = execute(&engine, &services, &module, job(), None).await;
                assert!(ran.result.is_ok() || name != "echo");
            });
        });
        let answers = {
            let _runtime = runtime.enter();
            Relay::start()
        };
        criterion.bench_function(&format!("run/{name}"), |bencher| {
            bencher
                .to_async(&runtime)
                .iter(|| sandbox.run(module.clone(), job(), None, &answers));
        });
    }
}

fn example(name: &str) -> &'static [u8] {
    wasmqtt_examples::ALL
        .iter()
        .find(|example| example.name == name)
        .expect("an example")
        .wasm
}

criterion_group!(benches, sandbox);
criterion_main!(benches);
