//! `examples/clients/`: what producers and consumers have already, on Debian's mosquitto with `wasmqtt serve`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use wasmqtt_tests::guests;

use crate::cli::{Ended, to_end};
use crate::rig::PATIENCE;
use crate::stock::Mosquitto;
use crate::under_test::Serve;

/// Not plain: quotes, a backslash, a letter beyond ASCII.
const TEXT: &str = r#"hello "you" \ é"#;

/// What a listener says when it is subscribed.
const LISTENING: &str = "listening";

/// What a test needs that is not here: its name, and how to get it.
pub(crate) fn lacking(test: &str) -> Option<(&'static str, &'static str)> {
    const NPM: &str = "mkdir -p target/clients && cp examples/clients/javascript/package*.json \
                       target/clients && npm ci --prefix target/clients";
    let module = |name: &str| installed_folder().join("node_modules").join(name).is_dir();
    let lack = match test {
        "clients::shell" if !runs("jq", &["--version"]) => ("jq", "apt-get install jq"),
        "clients::python" if !interpreter().is_file() => (
            "Python's paho-mqtt",
            "python3 -m venv target/clients/venv && target/clients/venv/bin/pip install -r \
             examples/clients/python/requirements.txt",
        ),
        "clients::javascript" if !(module("mqtt") && runs("node", &["--version"])) => {
            ("npm's mqtt", NPM)
        }
        "clients::php" if !runs("php", &["-r", MOSQUITTO_IN_PHP]) => (
            "PHP with libmosquitto",
            "apt-get install php-cli libmosquitto1",
        ),
        "schemas::the_official_schema" if !module("@asyncapi/specs") => {
            ("npm's @asyncapi/specs", NPM)
        }
        _ => return None,
    };
    Some(lack)
}

const MOSQUITTO_IN_PHP: &str = "FFI::cdef('int mosquitto_lib_init(void);', 'libmosquitto.so.1');";

fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = std::process::Command::new(program);
    let ended = command.args(args).stdin(Stdio::null()).output();
    ended.is_ok_and(|output| output.status.success())
}

/// Where `.ci/run` installs what the registries have.
pub(crate) fn installed_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients")
}

fn interpreter() -> PathBuf {
    installed_folder().join("venv/bin/python")
}

/// An example's file.
fn example(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/clients")
        .join(path);
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// A broker, a runner with the modules `echo` and `guest-error`, and a folder to work in.
struct Stage {
    broker: Mosquitto,
    serve: Serve,
    folder: TempDir,
}

impl Stage {
    async fn set() -> Stage {
        let broker = Mosquitto::start().await;
        let stock = broker.stock();
        stock.push("modules/echo", guests::ECHO).await;
        stock.push("modules/guest-error", guests::GUEST_ERROR).await;
        let url = broker.url();
        let serve = Serve::ready(&["--broker", &url, "--default-module", "echo"]).await;
        Stage {
            broker,
            serve,
            folder: TempDir::new().expect("a folder"),
        }
    }

    fn command(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("MQTT_HOST", "127.0.0.1")
            .env("MQTT_PORT", self.broker.port.number.to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, program: &Program, args: &[&str]) -> Ended {
        let args = [program.args().as_slice(), args].concat();
        let mut command = self.command(&program.0[0], &args);
        let child = command.stderr(Stdio::piped()).spawn();
        to_end(child.expect("it starts"), b"").await
    }

    /// A listener of a name, which is subscribed.
    async fn listen(&self, program: &Program, name: &str) -> Listener {
        let mut listener = self.start(program, name);
        assert_eq!(listener.read().await, LISTENING);
        listener
    }

    /// The same, not waited for: what came while it was away may be what it says first.
    fn start(&self, program: &Program, name: &str) -> Listener {
        let args = [program.args().as_slice(), &[name]].concat();
        let mut command = self.command(&program.0[0], &args);
        let mut child = command.process_group(0).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Listener { child, lines }
    }

    async fn end(self) {
        self.serve.end().await;
    }
}

/// A program and its first arguments.
struct Program(Vec<String>);

impl Program {
    fn new(words: &[&str]) -> Program {
        Program(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn args(&self) -> Vec<&str> {
        self.0[1..].iter().map(String::as_str).collect()
    }
}

/// A running listener, with what it has started itself; killed when dropped.
struct Listener {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listener {
    /// The next outcome.
    async fn line(&mut self) -> String {
        loop {
            let line = self.read().await;
            if line != LISTENING {
                return line;
            }
        }
    }

    async fn read(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("a line in time").expect("UTF-8");
        line.expect("it goes on")
    }

    async fn die(mut self) {
        self.kill();
        self.child.wait().await.expect("an exit status");
    }

    fn kill(&self) {
        let group = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = group.and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Submits a task of each kind, which is answered each.
async fn submits(stage: &Stage, submit: &Program, prefix: &str) {
    // The same id again: the same answer.
    for _ in 0..2 {
        let id = format!("{prefix}-again");
        let ended = stage.run(submit, &["echo", TEXT, &id]).await;
        assert_eq!(ended.code(0).text(), format!("{TEXT}\n"));
    }
    for (module, id, said) in [
        ("nobody", "unknown", "rejected"),
        ("nobody", "unknown", "module_not_found"),
        ("guest-error", "refused", "guest_error"),
        ("guest-error", "refused", "the input is wrong"),
    ] {
        let id = format!("{prefix}-{id}");
        let ended = stage.run(submit, &[module, "reject", &id]).await.code(3);
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        assert_eq!(ended.text(), "");
    }
    // An id of its own making.
    let ended = stage.run(submit, &["echo", "hello"]).await;
    assert_eq!(ended.code(0).text(), "hello\n");
}

/// Hears each outcome once, though it comes twice, and what came while nobody listened. `publish` publishes a task of
/// these ids and modules.
async fn listens(stage: &Stage, listen: &Program, publish: impl AsyncFn(&str, &str)) {
    let mut listener = stage.listen(listen, "listener").await;
    for (id, module) in [
        ("a-1", "echo"),
        ("a-2", "nobody"),
        ("a-3", "guest-error"),
        ("a-1", "echo"),
        ("a-3", "guest-error"),
    ] {
        publish(id, module).await;
    }
    let mut heard = vec![];
    for _ in 0..3 {
        heard.push(listener.line().await);
    }
    heard.sort();
    assert_eq!(
        heard,
        [
            "a-1 succeeded reject",
            "a-2 rejected module_not_found",
            "a-3 failed guest_error"
        ]
    );
    publish("a-4", "echo").await;
    assert_eq!(listener.line().await, "a-4 succeeded reject");
    listener.die().await;

    publish("a-5", "nobody").await;
    let mut listener = stage.start(listen, "listener");
    let mut line = listener.line().await;
    // It may have been killed with the last one handled, but not yet recorded.
    if line == "a-4 succeeded reject" {
        line = listener.line().await;
    }
    assert_eq!(line, "a-5 rejected module_not_found");
    listener.die().await;
}

/// Publishes JSON tasks with Debian's own client, and waits for each outcome: a second one is there, too.
async fn json_task(stage: &Stage, id: &str, module: &str) {
    let stock = stage.broker.stock();
    let mut completed = stock.subscribe(&["task_completed"]).await;
    let task = serde_json::json!({"id": id, "module": module, "input": "reject"}).to_string();
    stock
        .publish(&["-t", "task_queue", "-q", "1", "-m", &task])
        .await;
    assert_eq!(completed.next_json().await["id"], id);
}

pub(crate) async fn shell() {
    let stage = Stage::set().await;
    let program = |file: &str| Program::new(&["sh", &example(file)]);
    submits(&stage, &program("shell/submit.sh"), "s").await;
    submits(&stage, &program("shell/request.sh"), "r").await;
    let publish = async |id: &str, module: &str| json_task(&stage, id, module).await;
    listens(&stage, &program("shell/listen.sh"), publish).await;
    stage.end().await;
}

pub(crate) async fn python() {
    let stage = Stage::set().await;
    let python = interpreter();
    assert!(python.is_file(), "Python's paho-mqtt in {python:?}");
    let python = python.to_str().expect("a path in UTF-8");
    let program = |file: &str| Program::new(&[python, &example(file)]);
    submits(&stage, &program("python/submit.py"), "p").await;
    let publish = async |id: &str, module: &str| json_task(&stage, id, module).await;
    listens(&stage, &program("python/listen.py"), publish).await;
    stage.end().await;
}

pub(crate) async fn javascript() {
    let stage = Stage::set().await;
    // Beside the library, which node looks for there.
    let installed = installed_folder().join("node_modules");
    assert!(installed.join("mqtt").is_dir(), "npm's mqtt");
    std::os::unix::fs::symlink(&installed, stage.folder.path().join("node_modules"))
        .expect("a link");
    for file in ["submit.mjs", "listen.mjs"] {
        let from = example(&format!("javascript/{file}"));
        std::fs::copy(from, stage.folder.path().join(file)).expect("a copy");
    }
    submits(&stage, &Program::new(&["node", "submit.mjs"]), "j").await;
    let publish = async |id: &str, module: &str| json_task(&stage, id, module).await;
    listens(&stage, &Program::new(&["node", "listen.mjs"]), publish).await;
    stage.end().await;
}

pub(crate) async fn php() {
    let stage = Stage::set().await;
    let publish = Program::new(&["php", &example("php/publish.php")]);
    let listen = Program::new(&["php", &example("php/listen.php")]);
    // As the oldest kind of producer does: its argument, and nothing more.
    let mut completed = stage.broker.stock().subscribe(&["task_completed"]).await;
    assert_eq!(stage.run(&publish, &[TEXT]).await.code(0).text(), "");
    let outcome = completed.next_json().await;
    assert_eq!(outcome["output"], TEXT, "{outcome}");
    assert_eq!(outcome["module"], "echo", "{outcome}");

    let json = async |id: &str, module: &str| json_task(&stage, id, module).await;
    listens(&stage, &listen, json).await;
    // With properties, whose outcomes are properties.
    let mut listener = stage.listen(&listen, "another").await;
    for (id, module, said) in [
        ("p-1", "echo", "succeeded é"),
        ("p-2", "nobody", "rejected module_not_found"),
    ] {
        let published = stage.run(&publish, &["é", module, id]).await.code(0);
        assert_eq!(published.text(), format!("{id}\n"));
        assert_eq!(listener.line().await, format!("{id} {said}"));
    }
    listener.die().await;
    stage.end().await;
}
