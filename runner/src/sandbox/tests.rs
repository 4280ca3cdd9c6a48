use std::pin::pin;
use std::task::{Context, Waker};

use super::*;
use crate::sandbox::engine::Sizes;
use crate::task::limits::{LimitValues, RequestedLimits};

const VALUES: LimitValues = LimitValues {
    fuel: 30 * YIELD_EVERY,
    memory_bytes: 16 << 20,
    timeout_ms: 10_000,
    output_bytes: 1 << 20,
};

fn engine() -> Arc<Engine> {
    let sizes = Sizes {
        guests: 1,
        memory_bytes: VALUES.memory_bytes,
    };
    Arc::new(Engine::new(sizes).expect("an engine"))
}

fn job() -> Job {
    Job {
        context: host::types::Context {
            id: "1".to_owned(),
            tenant: "default".to_owned(),
            module: "echo".to_owned(),
            attempt: 1,
            content_type: None,
            deadline_ms: 0,
            labels: Vec::new(),
        },
        input: Bytes::new(),
        limits: RequestedLimits::default()
            .resolve(&VALUES, &VALUES)
            .expect("limits"),
        tenant: TenantId::default(),
        weight: 1,
        grants: Arc::default(),
        messages: None,
    }
}

#[test]
fn a_relay_that_is_gone_leaves_nobody_waiting() {
    let runtime = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime")
    };
    let answers = runtime().block_on(async { Relay::start() });
    let engine = engine();
    let component = engine.compile(wasmqtt_examples::ECHO).expect("a component");
    let module = Prepared::new(&engine, &component).expect("a module");
    let sandbox = Sandbox::new(engine, 1).expect("a sandbox");
    let ran = runtime().block_on(sandbox.run(Arc::new(module), job(), None, &answers));
    let error = ran.result.expect_err("nobody relays it");
    assert_eq!(error.code, ErrorCode::Internal, "{error}");
}

/// The epochs tick each time that a guest stands in line: when its turn comes it computes all the same.
#[tokio::test]
async fn ticks_in_line_cost_no_turn() {
    let (engine, job, fresh) = (engine(), job(), Fresh::default());
    let guest = Guest::new(&job, &Arc::default(), None, None, false).expect("a guest");
    let mut store = Store::new(engine.wasmtime(), guest);
    prepare_store(&mut store, &job.limits, Instant::now(), fresh.clone()).expect("a store");
    let endless = wat::parse_str(r#"(module (func (export "run") (loop (br 0))))"#).expect("WAT");
    let module = wasmtime::Module::new(engine.wasmtime(), endless).expect("a module");
    let call = async {
        let instance = wasmtime::Instance::new_async(&mut store, &module, &[]).await?;
        let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
        run.call_async(&mut store, ()).await
    };
    let turns = Arc::new(Turns::new(1));
    let mut call = pin!(Turns::gate(turns, job.tenant, 1, fresh, call));
    let mut turns = 0;
    let mut context = Context::from_waker(Waker::noop());
    while call.as_mut().poll(&mut context).is_pending() {
        engine.wasmtime().increment_epoch();
        turns += 1;
    }
    // Thirty, and one for each tick of the engine's own that is the second in a turn; sixty if ticks cost turns.
    assert!(turns < 45, "{turns} turns");
}
