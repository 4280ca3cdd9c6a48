//! What a guest or a producer writes must not cost the connection: mosquitto closes it for a control character
//! in a property or a topic, and whatever is published again on the next one closes that too.

use serde_json::json;
use wasmqtt::envelope::Message;
use wasmqtt_tests::guests;

use crate::rig::{Rig, config, json as read, user, with_properties};
use crate::stock::Mosquitto;

pub(crate) async fn nobody_can_poison_the_connection() {
    let broker = Mosquitto::start().await;
    let mut rig = Rig::on(config(&broker.url())).await;
    rig.push("panic", guests::PANIC).await;
    rig.push("echo", guests::ECHO).await;

    // A trap with a backtrace of several frames, and a message in the log with control characters.
    let fields = [("id", "poison"), ("module", "panic"), ("logs", "true")];
    rig.publish(with_properties("a\nb\u{1b}\u{85}", &fields))
        .await;
    let outcome = rig
        .ear
        .hear(|inbound| user(inbound, "id") == Some("poison"))
        .await;
    assert_eq!(user(&outcome, "error_code"), Some("trap"), "{outcome:?}");
    let frames = outcome.properties.user.iter();
    let frames = frames.filter(|(name, _)| name == "error_backtrace").count();
    assert!(frames > 1, "one property a frame: {outcome:?}");

    for topic in ["a\u{1}b", "a\tb", "a\u{ffff}b"] {
        let task = json!({"module": "echo", "correlation": topic, "reply_to": topic});
        rig.publish(Message::new("task_queue", task.to_string()))
            .await;
        let refused = rig
            .ear
            .hear(|inbound| read(inbound).is_some_and(|said| said["correlation"] == topic))
            .await;
        let refused = read(&refused).expect("JSON");
        assert_eq!(refused["error"]["code"], "tenant_denied", "{refused}");
    }
    let after = rig.task(json!({"id": "after", "module": "echo"})).await;
    assert_eq!(after["status"], "succeeded");
    rig.end().await;
}
