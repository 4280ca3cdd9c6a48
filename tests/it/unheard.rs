//! Mosquitto drops what nobody is subscribed to, and says so in the PUBACK.

use tokio::io::{AsyncBufReadExt as _, BufReader};
use wasmqtt::mqtt::Published;

use crate::cli::{Shell, to_end};
use crate::client::{NEVER, connect, echoed, ended, request, runner};
use crate::stock::Mosquitto;

/// The broker drops what nobody takes, and says so.
pub(crate) async fn a_runner_comes_later() {
    let broker = Mosquitto::start().await;
    let url = broker.url();
    let client = connect(&url).await.with_resend_after(NEVER);
    let (published, mut updates) = client.submit(&request("early")).await.expect("a PUBACK");
    assert_eq!(published, Published::NoSubscribers);

    let shell = Shell::new();
    let submit = [
        "submit", "echo", "--input", "hello", "--id", "by-hand", "--broker", &url,
    ];
    let mut child = shell.command(&submit).spawn().expect("started");
    let mut stderr = BufReader::new(child.stderr.take().expect("its stderr")).lines();
    let warning = stderr.next_line().await.expect("read").expect("a line");
    let expected = "warning: no runner is subscribed to the queue; publishing the task again until there is one";
    assert_eq!(warning, expected);

    let (rig, _modules) = runner(&url).await;
    echoed(&ended(&mut updates).await);
    let by_hand = to_end(child, b"").await.code(0);
    assert_eq!(by_hand.text(), "hello");
    while let Some(line) = stderr.next_line().await.expect("read") {
        assert!(!line.contains("warning"), "said twice: {line}");
    }
    client.close().await;
    rig.end().await;
}
