use super::*;

/// As wasm yields.
async fn yields() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Yields so often, and counts each time for its tenant.
async fn computes(counts: Arc<Mutex<HashMap<String, usize>>>, name: &'static str, turns: usize) {
    for _ in 0..turns {
        *counts
            .lock()
            .expect("no panic")
            .entry(name.to_owned())
            .or_default() += 1;
        yields().await;
    }
}

async fn shares(guests: &[(&'static str, u32, usize)]) -> HashMap<String, usize> {
    let turns = Arc::new(Turns::new(1));
    let counts = Arc::new(Mutex::new(HashMap::new()));
    let mut running = tokio::task::JoinSet::new();
    for (name, weight, number) in guests {
        for _ in 0..*number {
            let tenant = TenantId::parse(name).expect("a tenant");
            let future = computes(counts.clone(), name, 10_000);
            let gate = Turns::gate(turns.clone(), tenant, *weight, Fresh::default(), future);
            running.spawn(gate);
        }
    }
    // Until the first has ended everybody wants turns.
    running.join_next().await;
    counts.lock().expect("no panic").clone()
}

#[tokio::test]
async fn turns_by_weight_however_many_guests() {
    let counts = shares(&[("one", 1, 20), ("two", 2, 3), ("four", 4, 1)]).await;
    let (one, two, four) = (counts["one"], counts["two"], counts["four"]);
    assert_eq!(four, 10_000, "{counts:?}");
    assert!(
        one.abs_diff(2_500) < 50 && two.abs_diff(5_000) < 50,
        "{counts:?}"
    );
}

#[tokio::test]
async fn one_that_is_dropped_gives_its_turn_back() {
    let turns = Arc::new(Turns::new(1));
    let tenant = TenantId::default();
    let never = std::future::pending::<()>();
    let gate = |turns: &Arc<Turns>| {
        let endless = async {
            loop {
                yields().await;
            }
        };
        Turns::gate(
            turns.clone(),
            TenantId::default(),
            1,
            Fresh::default(),
            endless,
        )
    };
    let (first, second) = (tokio::spawn(gate(&turns)), tokio::spawn(gate(&turns)));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    first.abort();
    second.abort();
    let _ = tokio::join!(first, second);
    let waits = Turns::gate(turns.clone(), tenant, 1, Fresh::default(), never);
    let waits = tokio::time::timeout(Duration::from_millis(10), waits);
    assert!(waits.await.is_err());
    let state = turns.lock();
    assert_eq!((state.free, state.tenants.len()), (1, 0));
}

/// Who computes in host calls, and burns no fuel, is charged for that as it goes.
#[tokio::test]
async fn time_is_charged() {
    let turns = Arc::new(Turns::new(1));
    let computes = async {
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {}
        std::future::pending::<()>().await;
    };
    let mut gate = Box::pin(Turns::gate(
        turns.clone(),
        TenantId::default(),
        1,
        Fresh::default(),
        computes,
    ));
    let polled = gate.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    let spent = gate.spent();
    assert!(spent > Duration::ZERO);
    assert_eq!(u128::from(gate.charged), spent.as_nanos());
    let other = TenantId::parse("other").expect("a tenant");
    let state = turns.lock();
    let (ours, theirs) = (state.fair.tag(&TenantId::default()), state.fair.tag(&other));
    assert!(ours > theirs, "{ours} {theirs}");
}
