//! Debian's mosquitto: the broker, started by a test with a configuration of its own, and the clients.

use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpSocket;
use tokio::process::ChildStdout;
use tokio::time::{sleep, timeout};
use wasmqtt::envelope::Message;

use crate::contract;
use crate::rig::PATIENCE;

/// Whether the broker and its clients are installed.
pub(crate) fn installed() -> bool {
    [
        "mosquitto",
        "mosquitto_pub",
        "mosquitto_sub",
        "mosquitto_rr",
    ]
    .iter()
    .all(|name| find(name).is_some())
}

/// Debian puts servers where only root's PATH looks.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Where a program of mosquitto's is.
pub(crate) fn program(name: &str) -> PathBuf {
    find(name)
        .unwrap_or_else(|| panic!("{name} is missing: apt-get install mosquitto mosquitto-clients"))
}

/// A port that nobody else gets as long as this lives: bound, but not listened on, so that connections are refused
/// until a server with `SO_REUSEADDR` listens on it.
pub(crate) struct Port {
    _reserved: TcpSocket,
    pub(crate) number: u16,
}

impl Port {
    pub(crate) fn reserve() -> Port {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option of TCP");
        socket
            .bind(([127, 0, 0, 1], 0).into())
            .expect("a free port");
        let number = socket.local_addr().expect("an address").port();
        Port {
            _reserved: socket,
            number,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.number))
    }
}

/// A running mosquitto; killed when dropped. It always has a plain listener.
pub(crate) struct Mosquitto {
    pub(crate) port: Port,
    /// For listeners of the configuration.
    pub(crate) second_port: Port,
    pub(crate) folder: TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    /// Open to everybody on this machine, nothing kept.
    pub(crate) async fn start() -> Mosquitto {
        Mosquitto::with(|_| String::new()).await
    }

    /// Keeps sessions, their messages and retained messages over a clean restart.
    pub(crate) async fn persistent() -> Mosquitto {
        Mosquitto::with(|m| {
            let folder = m.folder.path().display();
            format!("persistence true\npersistence_location {folder}/\nmax_queued_messages 0\n")
        })
        .await
    }

    /// With more lines of configuration, which may name its ports and files in its folder. Lines of another listener
    /// come last.
    pub(crate) async fn with(more: impl FnOnce(&Mosquitto) -> String) -> Mosquitto {
        let mut mosquitto = Mosquitto {
            port: Port::reserve(),
            second_port: Port::reserve(),
            folder: TempDir::new().expect("a folder"),
            child: None,
        };
        let more = more(&mosquitto);
        let open = if more.contains("password_file") || more.contains("allow_anonymous") {
            ""
        } else {
            "allow_anonymous true\n"
        };
        // Started by root, it would become a user who may not look into the folder.
        let config = format!(
            "user root\nlog_dest stderr\n{open}listener {} 127.0.0.1\n{more}",
            mosquitto.port.number
        );
        std::fs::write(mosquitto.config(), config).expect("a configuration");
        mosquitto.run().await;
        mosquitto
    }

    /// Starts it, also again.
    pub(crate) async fn run(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        let child = Command::new(program("mosquitto"))
            .arg("-c")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mosquitto starts");
        self.child = Some(child);
        let accepts = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port.number))
                .await
                .is_err()
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, accepts).await.is_err() {
            panic!("mosquitto does not listen: {}", self.log());
        }
    }

    /// SIGTERM: it ends in good order, and keeps what it was told to keep.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child.take().expect("running");
        signal(child.id(), Signal::TERM);
        timeout(PATIENCE, tokio::task::spawn_blocking(move || child.wait()))
            .await
            .expect("stopped in time")
            .expect("no panic")
            .expect("an exit status");
    }

    /// SIGKILL: it keeps what it has written so far.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("it is ours");
        child.wait().expect("an exit status");
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port.number)
    }

    /// MQTT 5 clients of its plain listener.
    pub(crate) fn stock(&self) -> Stock {
        Stock {
            port: self.port.number,
            version: "5",
            login: None,
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("mosquitto.conf")
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// To a process of ours.
pub(crate) fn signal(process: u32, signal: Signal) {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    kill_process(process.expect("a process id"), signal).expect("it is ours");
}

/// Retained, and so the first message of every `mosquitto_sub`.
const READY: &str = "subscribed";

/// `mosquitto_pub`, `mosquitto_sub` and `mosquitto_rr` on one broker of this machine.
pub(crate) struct Stock {
    pub(crate) port: u16,
    /// `5` or `311`.
    pub(crate) version: &'static str,
    pub(crate) login: Option<(&'static str, &'static str)>,
}

impl Stock {
    /// Publishes, which must succeed.
    pub(crate) async fn publish(&self, args: &[&str]) {
        let output = self.try_publish(args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    /// Publishes a file's bytes as a module.
    pub(crate) async fn push(&self, topic: &str, module: &[u8]) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(module).expect("a module");
        let path = file.path().to_str().expect("a path in UTF-8");
        self.publish(&["-t", topic, "-r", "-q", "1", "-f", path])
            .await;
    }

    /// Publishes every line at QoS 1, over one connection.
    pub(crate) async fn publish_lines(&self, topic: &str, lines: &str) {
        for line in lines.lines() {
            contract::published(&Message::new(topic, line.to_owned()));
        }
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(lines.as_bytes()).expect("a file");
        file.rewind().expect("a file");
        let mut command = self.command("mosquitto_pub");
        command.args(["-t", topic, "-q", "1", "-l"]).stdin(file);
        let output = command.output().await.expect("mosquitto_pub runs");
        assert!(output.status.success(), "{output:?}");
    }

    pub(crate) async fn try_publish(&self, args: &[&str]) -> Output {
        contract::published(&message(args));
        let output = self.command("mosquitto_pub").args(args).output().await;
        output.expect("mosquitto_pub runs")
    }

    /// `mosquitto_rr`: publishes a request and waits for the answer, which it prints.
    pub(crate) async fn request(&self, args: &[&str]) -> Output {
        contract::published(&message(args));
        let request = self.command("mosquitto_rr").args(args).output();
        let output = timeout(PATIENCE, request).await.expect("an answer in time");
        output.expect("mosquitto_rr runs")
    }

    /// Subscribes at QoS 1; when this returns, the broker knows.
    pub(crate) async fn subscribe(&self, topics: &[&str]) -> Subscribed {
        // Its output comes when a message comes: so a retained one on the last of the topics says that it is
        // subscribed.
        self.publish(&["-t", READY, "-r", "-q", "1", "-m", "yes"])
            .await;
        let mut command = self.command("mosquitto_sub");
        for topic in topics.iter().chain([&READY]) {
            command.args(["-t", topic]);
        }
        let format = if self.version == "5" {
            "%t\t%R\t%D\t%P\t%p"
        } else {
            "%t\t\t\t\t%p"
        };
        command.args(["-q", "1", "-F", format]);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub runs");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut subscribed = Subscribed {
            lines,
            early: Vec::new(),
            child,
        };
        loop {
            let heard = subscribed.read().await;
            if heard.topic == READY {
                return subscribed;
            }
            subscribed.early.push(heard);
        }
    }

    fn command(&self, name: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program(name));
        command.args(["-p", &self.port.to_string(), "-V", self.version]);
        if let Some((user, password)) = self.login {
            command.args(["-u", user, "-P", password]);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// What these arguments publish, as far as it may be a task.
fn message(args: &[&str]) -> Message {
    let after = |flag: &str| {
        let at = args.iter().position(|arg| *arg == flag)?;
        args.get(at + 1).copied()
    };
    let payload = after("-m").unwrap_or_default().to_owned();
    let mut message = Message::new(after("-t").unwrap_or_default(), payload);
    for property in args.windows(4) {
        if let ["publish", "user-property", name, value] = property {
            let pair = ((*name).to_owned(), (*value).to_owned());
            message.properties.user.push(pair);
        }
    }
    message
}

/// A running `mosquitto_sub`.
pub(crate) struct Subscribed {
    lines: Lines<BufReader<ChildStdout>>,
    /// Came before it was known to be subscribed.
    early: Vec<Heard>,
    #[expect(dead_code, reason = "killed when dropped")]
    child: tokio::process::Child,
}

/// A message that `mosquitto_sub` got. Properties are empty for MQTT 3.1.1.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) topic: String,
    pub(crate) response_topic: String,
    pub(crate) correlation: String,
    /// `name:value`, separated by spaces.
    pub(crate) user: String,
    pub(crate) payload: String,
}

impl Subscribed {
    /// The next message.
    pub(crate) async fn next(&mut self) -> Heard {
        if self.early.is_empty() {
            self.read().await
        } else {
            self.early.remove(0)
        }
    }

    /// The next message, in JSON.
    pub(crate) async fn next_json(&mut self) -> serde_json::Value {
        let heard = self.next().await;
        let value = serde_json::from_str(&heard.payload);
        let value = value.unwrap_or_else(|_| panic!("no JSON: {heard:?}"));
        if heard.topic.ends_with("task_completed") {
            contract::outcome_json(&value);
        }
        value
    }

    async fn read(&mut self) -> Heard {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line
            .expect("a message in time")
            .expect("UTF-8")
            .expect("mosquitto_sub goes on");
        let fields: Vec<&str> = line.splitn(5, '\t').collect();
        let [topic, response_topic, correlation, user, payload] = fields[..] else {
            panic!("not the format that was asked for: {line}");
        };
        Heard {
            topic: topic.to_owned(),
            response_topic: response_topic.to_owned(),
            correlation: correlation.to_owned(),
            user: user.to_owned(),
            payload: payload.to_owned(),
        }
    }
}

/// Waits until a file is there.
pub(crate) async fn appears(path: &Path) {
    let there = async {
        while !path.exists() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, there).await.expect("a file in time");
}
