//! The runners of a trial, each a process behind a link of its own.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::process::Command;

use crate::faults::broker::Broker;
use crate::faults::ground::Ground;
use crate::faults::witness::Witness;
use crate::proxy::Proxy;
use crate::under_test::Serve;

/// Changes how the process of a runner is started.
pub(crate) type Wrap = Box<dyn Fn(usize, Command) -> Command + Send + Sync>;

/// What a trial wants otherwise than usual.
pub(crate) struct Setup {
    pub(crate) runners: usize,
    /// Where they keep their journals and slots.
    pub(crate) state: Option<PathBuf>,
    pub(crate) wrap: Wrap,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            runners: 3,
            state: None,
            wrap: Box::new(|_, command| command),
        }
    }
}

pub(crate) struct Fleet {
    runners: Vec<Runner>,
    ground: Arc<Ground>,
    session_expiry_s: Option<&'static str>,
    wrap: Wrap,
}

struct Runner {
    link: Proxy,
    serve: Option<Serve>,
    /// Logs of its earlier processes.
    log: String,
}

impl Fleet {
    pub(crate) async fn start(
        broker: &Broker,
        ground: Arc<Ground>,
        witness: &Witness,
        setup: Setup,
    ) -> Fleet {
        let mut runners = Vec::new();
        for number in 0..setup.runners {
            let witness = witness.clone();
            let link = Proxy::balanced(broker.nodes(number), move |connection, way, packet| {
                witness.see(number, connection, way, packet)
            });
            runners.push(Runner {
                link: link.await,
                serve: None,
                log: String::new(),
            });
        }
        let mut fleet = Fleet {
            runners,
            ground,
            session_expiry_s: broker.kind.redistributes().then_some("0"),
            wrap: setup.wrap,
        };
        for number in 0..setup.runners {
            fleet.begin(number);
        }
        for number in 0..setup.runners {
            fleet.ready(number).await;
        }
        fleet
    }

    /// Starts a runner, also again; when this returns it takes tasks.
    pub(crate) async fn run(&mut self, number: usize) {
        self.begin(number);
        self.ready(number).await;
    }

    fn begin(&mut self, number: usize) {
        let runner = &mut self.runners[number];
        let args = [
            vec!["--broker".to_owned(), runner.link.url()],
            self.ground.args(&format!("runner-{number}")),
        ];
        let args = args.concat();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let serve = Serve::start_with(&args, |command| {
            let mut command = self.ground.env(command);
            if let Some(seconds) = self.session_expiry_s {
                command.env("WASMQTT_MQTT_SESSION_EXPIRY_S", seconds);
            }
            (self.wrap)(number, command)
        });
        runner.serve = Some(serve);
    }

    async fn ready(&mut self, number: usize) {
        let serve = self.runners[number].serve.as_mut().expect("running");
        serve.logs("serve: ready").await;
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.runners.len()
    }

    /// The link of a runner.
    pub(crate) fn link(&self, number: usize) -> &Proxy {
        &self.runners[number].link
    }

    /// The links of all of them.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Proxy> {
        self.runners.iter().map(|runner| &runner.link)
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self, number: usize) {
        let runner = &mut self.runners[number];
        let mut serve = runner.serve.take().expect("running");
        serve.kill();
        serve.ended().await;
        runner.log.push_str(&serve.log());
    }

    /// SIGTERM; it must end well.
    pub(crate) async fn terminate(&mut self, number: usize) {
        let runner = &mut self.runners[number];
        let mut serve = runner.serve.take().expect("running");
        serve.terminate();
        let status = serve.ended().await;
        runner.log.push_str(&serve.log());
        assert!(status.success(), "{status}:\n{}", self.log(number));
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn signal(&self, number: usize, signal: Signal) {
        let serve = self.runners[number].serve.as_ref();
        serve.expect("running").signal(signal);
    }

    /// The process id of a runner.
    pub(crate) fn process(&self, number: usize) -> u32 {
        self.runners[number].serve.as_ref().expect("running").id()
    }

    /// What a runner has logged in all of its processes.
    pub(crate) fn log(&self, number: usize) -> String {
        let runner = &self.runners[number];
        let running = runner.serve.as_ref().map(Serve::log);
        format!("{}{}", runner.log, running.unwrap_or_default())
    }

    /// Ends all of them that run.
    pub(crate) async fn end(&mut self) {
        for runner in self.runners.iter().filter_map(|r| r.serve.as_ref()) {
            runner.terminate();
        }
        for number in 0..self.runners.len() {
            let Some(mut serve) = self.runners[number].serve.take() else {
                continue;
            };
            let status = serve.ended().await;
            self.runners[number].log.push_str(&serve.log());
            assert!(status.success(), "{status}:\n{}", self.log(number));
        }
    }
}
