use super::*;

fn fleet(root: &str) -> Fleet {
    Fleet {
        topics: Topics::new(root).expect("a root"),
        group: "runners".to_owned(),
        reply_topics: vec!["shared/+/replies".to_owned()],
    }
}

fn tenant(name: &str) -> Role {
    Role::Tenant {
        tenant: TenantId::parse(name).expect("a tenant"),
        modules: true,
    }
}

#[test]
fn a_filter_covers_what_is_narrower() {
    for (allowed, filter) in [
        ("#", "a/b"),
        ("#", "#"),
        ("#", "+/b"),
        ("a/#", "a"),
        ("a/#", "a/+/#"),
        ("a/+", "a/b"),
        ("a/+", "a/+"),
        ("a/+", "a/"),
        ("$share/g/a/+/b", "$share/g/a/x/b"),
        ("$share/g/a/+/b", "$share/g/a/+/b"),
    ] {
        assert!(covers(allowed, filter), "{allowed} {filter}");
    }
    for (allowed, filter) in [
        ("#", "$SYS/x"),
        ("#", "$share/g/a"),
        ("+/x", "$SYS/x"),
        ("a/+", "a"),
        ("a/+", "a/#"),
        ("a/+", "a/b/c"),
        ("a/b", "a/+"),
        ("a/#", "+/b"),
        ("a/#", "#"),
        ("a/#", "ab"),
        ("a/b", "a"),
        ("$share/g/a/#", "$share/h/a/b"),
        ("$share/g/a/#", "$share/+/a/b"),
    ] {
        assert!(!covers(allowed, filter), "{allowed} {filter}");
    }
}

#[test]
fn a_tenant_stays_at_home() {
    for root in ["", "fleet/"] {
        let acme = fleet(root).access(&tenant("acme"), "acme");
        let at = |topic: &str| format!("{root}tenants/acme/{topic}");
        for own in [
            "task_queue",
            "task_control/7",
            "modules/upper",
            "modules/upper/signature",
        ] {
            assert!(acme.may_publish(&at(own)), "{own}");
        }
        for filter in ["#", "task_completed", "+/7", "replies/x"] {
            assert!(acme.may_subscribe(&at(filter)), "{filter}");
        }
        for topic in [
            "task_completed",
            "task_status/7",
            "task_queue/x",
            "modules/a/b/c",
            "modules",
            "",
        ] {
            assert!(!acme.may_publish(&at(topic)), "{topic}");
        }
        for topic in [
            "task_queue",
            "tenants/globex/task_queue",
            "modules/upper",
            "modules/upper/signature",
            "tenants/globex/modules/upper/signature",
            "runner_status/x",
            "$SYS/x",
            "",
        ] {
            let topic = format!("{root}{topic}");
            assert!(!acme.may_publish(&topic), "{topic}");
            assert!(!acme.may_subscribe(&topic), "{topic}");
        }
        for filter in [
            "#",
            "+/+/#",
            "tenants/+/task_completed",
            "tenants/#",
            "tenants/ac+/#",
        ] {
            let filter = format!("{root}{filter}");
            assert!(!acme.may_subscribe(&filter), "{filter}");
        }
        for shared in [
            "tenants/acme/task_queue",
            "tenants/+/task_queue",
            "tenants/acme/#",
            "#",
        ] {
            for group in ["runners", "mine"] {
                let filter = format!("$share/{group}/{root}{shared}");
                assert!(!acme.may_subscribe(&filter), "{filter}");
            }
        }
    }
}

#[test]
fn a_producer_of_the_default_tenant() {
    let user = fleet("").access(&tenant("default"), "shop");
    for topic in [
        "task_queue",
        "task_control/7",
        "modules/upper",
        "modules/upper/signature",
    ] {
        assert!(user.may_publish(topic), "{topic}");
    }
    for filter in [
        "task_completed",
        "task_status/#",
        "task_log/7",
        "replies/shop/#",
        "task_reply/x",
        "modules/upper",
    ] {
        assert!(user.may_subscribe(filter), "{filter}");
    }
    for filter in [
        "#",
        "+",
        "task_queue",
        "replies/#",
        "replies/other/1",
        "tenants/acme/task_completed",
        "modules/#",
        "tenants/acme/modules/+",
    ] {
        assert!(!user.may_subscribe(filter), "{filter}");
    }
    let silent = Role::Tenant {
        tenant: TenantId::default(),
        modules: false,
    };
    let silent = fleet("").access(&silent, "shop");
    for topic in ["modules/upper", "modules/upper/signature"] {
        assert!(!silent.may_publish(topic), "{topic}");
        assert!(!silent.may_subscribe(topic), "{topic}");
    }
}

#[test]
fn a_runner_and_an_operator() {
    let fleet = fleet("");
    let runner = fleet.access(&Role::Runner, "runner");
    let topics = &fleet.topics;
    let queues = [
        topics.queue_filter("runners", &TenantId::default()),
        topics.others_filter("runners"),
    ];
    for filter in queues.iter().chain(&topics.control_filters()) {
        assert!(runner.may_subscribe(filter), "{filter}");
    }
    for filter in ["modules/a/signature", "tenants/acme/modules/a/signature"] {
        assert!(runner.may_subscribe(filter), "{filter}");
    }
    assert!(runner.may_subscribe("$share/runners/tenants/acme/task_queue"));
    assert!(!runner.may_subscribe("$share/others/tenants/acme/task_queue"));
    for topic in [
        "tenants/acme/task_completed",
        "tenants/acme/replies/1",
        "task_reply/x",
        "shared/a/replies",
    ] {
        assert!(runner.may_publish(topic), "{topic}");
    }
    for topic in [
        "modules/x",
        "tenants/acme/modules/x",
        "tenants/acme/modules/x/signature",
        "tenants/acme/task_control/7",
        "elsewhere",
        "$SYS/x",
    ] {
        assert!(!runner.may_publish(topic), "{topic}");
    }
    let operator = fleet.access(&Role::Operator, "operator");
    assert!(operator.may_subscribe("#") && operator.may_subscribe("$SYS/#"));
    assert!(operator.may_publish("tenants/acme/modules/x"));
    assert!(!operator.may_subscribe("$share/runners/task_queue"));
    assert!(!operator.may_publish("$SYS/x"));
    assert!(
        runner
            .receive()
            .contains(&"tenants/+/task_queue".to_owned())
    );
}
