//! `wasmqtt bench`: tasks a second and latency, beside a native echo worker in the same run.

use std::collections::HashMap;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;

use crate::broker::{self, Broker};
use crate::cli::args::Connection;
use crate::cli::{OK, network_runtime};
use crate::config::Config;
use crate::envelope::Message;
use crate::mqtt::{self, Deliveries, Publisher, echo};
use crate::runner::Runner;
use crate::runner::start::base_settings;
use crate::task::tenant::TenantId;
use crate::task::{ModuleName, TaskId};

/// How long one answer may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the broker may take to answer.
const CONNECTED: Duration = Duration::from_secs(10);
/// Tasks of each side before the first measured round.
const WARM_UP: usize = 500;

/// Measure tasks a second and latency against a native worker
///
/// A no-op guest behind the whole runner, and a native echo worker that does the same MQTT work without a
/// sandbox, take turns on the same broker. The ratio is the median over the rounds: absolute figures are the
/// machine's and the broker's. Uses topics of its own below `wasmqtt-bench/`. Build with `--profile dist`.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Tasks of each side in a round
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    tasks: u32,
    /// Tasks in flight
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Rounds, each of both sides
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Bytes of input of each task
    #[arg(long, default_value_t = 256)]
    input_bytes: usize,
    /// Another guest than the no-op
    #[arg(long, value_name = "FILE")]
    module: Option<std::path::PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// The figures; `p*_ms` are of the sandboxed tasks, from the publish to the outcome's arrival.
#[derive(Debug, Serialize)]
struct Figures {
    ratio: f64,
    tasks_per_second: f64,
    echo_tasks_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    echo_p50_ms: f64,
    echo_p99_ms: f64,
    window: u16,
    tasks: u32,
    rounds: u32,
    broker: String,
}

impl Bench {
    pub(super) fn run(self) -> Result<u8> {
        let embedded = self.connection.broker.is_none();
        let mut config = self.connection.load(&[])?;
        let run = TaskId::generate();
        config.mqtt.topic_root = format!("wasmqtt-bench/{run}/");
        config.mqtt.group = format!("bench-{run}");
        config.mqtt.session_expiry_s = 0;
        config.runner.name = format!("bench-{run}");
        config.runner.prefetch = self.window;
        config.modules.published = false;
        config.modules.cache_directory = None;

        // The driver and the worker have a network thread each, as they would in two processes.
        let driving = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("driver")
            .enable_all()
            .build()?;
        let worker = Worker::start()?;
        let broker = match embedded {
            false => None,
            true => Some(driving.block_on(Broker::start(broker::Settings {
                park: Vec::new(),
                ..broker::Settings::default()
            }))?),
        };
        if let Some(broker) = &broker {
            config.mqtt.url = broker.url();
        }
        let figures = self.measure(&config, &driving, &worker.runtime, embedded);
        worker.end();
        let figures = figures?;
        if let Some(broker) = broker {
            driving.block_on(broker.stop());
        }
        if self.json {
            println!(
                "{}",
                serde_json::to_string(&figures).context("failed to print the figures")?
            );
        } else {
            print(&figures);
        }
        Ok(OK)
    }

    fn measure(
        &self,
        config: &Config,
        driving: &Runtime,
        working: &Handle,
        embedded: bool,
    ) -> Result<Figures> {
        let folder = tempfile::tempdir().context("failed to create a folder for the guest")?;
        let name = self.guest(folder.path())?;
        let mut config = config.clone();
        config.modules.directory = Some(folder.path().to_owned());
        // As `serve` has it: on disk.
        config.journal.directory = Some(folder.path().join("state"));
        let topics = config.topics()?;
        let tenant = TenantId::default();

        // The runner.
        let settings = config.clone();
        let runner = working.spawn(async move { Runner::start(&settings).await });
        let started = async { tokio::time::timeout(CONNECTED, runner).await };
        let Ok(runner) = driving.block_on(started) else {
            bail!("no broker at {} within {CONNECTED:?}", config.mqtt.url);
        };
        let runner = runner??;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = working.spawn(runner.run(async move {
            let _ = stopped.await;
        }));
        // The echo worker.
        let echo_topic = format!("{}echo", config.mqtt.topic_root);
        let echoed_topic = format!("{}echoed", config.mqtt.topic_root);
        let mut settings = base_settings(&config, &format!("{}-echo", config.runner.name))?;
        settings.receive_maximum = self.window;
        settings.send_maximum = self.window.saturating_mul(2).max(100);
        settings.filters = vec![format!("$share/{}/{echo_topic}", config.mqtt.group)];
        let (ready, subscribed) = oneshot::channel();
        let echoing = working.spawn(echo::run(settings, echoed_topic.clone(), ready));
        if driving.block_on(subscribed).is_err() {
            bail!("the echo worker failed: {:?}", driving.block_on(echoing));
        }

        let mut driver = driving.block_on(Driver::connect(
            &config,
            [topics.completed(&tenant), echoed_topic.clone()],
        ))?;
        // JSON, as most producers send it.
        let input = "x".repeat(self.input_bytes);
        let task = |id: TaskId| {
            let task =
                serde_json::json!({"id": id.as_str(), "module": name.as_str(), "input": input});
            Message::new(topics.queue(&tenant), task.to_string())
        };
        let echo = |id: TaskId| Message {
            topic: echo_topic.clone(),
            ..task(id)
        };
        // Rounds of a tenth of a second would measure their ends, and who had which processor.
        let per_round = self.tasks as usize;
        let measured = driving.block_on(async {
            driver.round(WARM_UP, self.window, &task).await?;
            driver.round(WARM_UP, self.window, &echo).await?;
            let (mut tasks, mut echoes) = (Rounds::default(), Rounds::default());
            for _ in 0..self.rounds {
                echoes.add(driver.round(per_round, self.window, &echo).await?);
                tasks.add(driver.round(per_round, self.window, &task).await?);
            }
            anyhow::Ok((tasks, echoes))
        });
        echoing.abort();
        let _ = stop.send(());
        driving.block_on(running)??;
        driving.block_on(driver.close(topics.runner(&config.runner.name)));
        let (tasks, echoes) = measured?;
        let ratios = tasks
            .rates
            .iter()
            .zip(&echoes.rates)
            .map(|(task, echo)| task / echo)
            .collect();
        Ok(Figures {
            ratio: median(ratios),
            tasks_per_second: median(tasks.rates.clone()),
            echo_tasks_per_second: median(echoes.rates.clone()),
            p50_ms: tasks.percentile(0.5),
            p99_ms: tasks.percentile(0.99),
            p999_ms: tasks.percentile(0.999),
            echo_p50_ms: echoes.percentile(0.5),
            echo_p99_ms: echoes.percentile(0.99),
            window: self.window,
            tasks: self.tasks,
            rounds: self.rounds,
            broker: if embedded {
                "embedded".to_owned()
            } else {
                config.mqtt.url.clone()
            },
        })
    }

    /// Puts the guest into the folder; its name there.
    fn guest(&self, folder: &Path) -> Result<ModuleName> {
        let bytes = match &self.module {
            None => wasmqtt_examples::ECHO.to_vec(),
            Some(file) => {
                std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?
            }
        };
        std::fs::write(folder.join("guest.wasm"), bytes).context("failed to write the guest")?;
        ModuleName::parse("guest").map_err(anyhow::Error::msg)
    }
}

/// The worker's network thread.
struct Worker {
    runtime: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start() -> Result<Worker> {
        let runtime = network_runtime()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("network".to_owned());
        let thread = thread
            .spawn(move || drop(runtime.block_on(stopped)))
            .context("failed to start the worker's thread")?;
        Ok(Worker {
            runtime: handle,
            stop,
            thread,
        })
    }

    fn end(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Publishes tasks, so many in flight, and takes the answers.
struct Driver {
    publisher: Publisher,
    deliveries: Deliveries,
    sent: u64,
}

struct Round {
    took: Duration,
    latencies: Vec<f64>,
}

impl Driver {
    async fn connect(config: &Config, answers: [String; 2]) -> Result<Driver> {
        let mut settings = base_settings(config, &format!("{}-driver", config.runner.name))?;
        settings.receive_maximum = 1_000;
        settings.send_maximum = 1_000;
        settings.filters = answers.to_vec();
        let (deliveries, publisher) = mqtt::connect(settings);
        publisher
            .ready()
            .await
            .map_err(anyhow::Error::msg)
            .context("failed to connect the driver")?;
        Ok(Driver {
            publisher,
            deliveries,
            sent: 0,
        })
    }

    async fn round(
        &mut self,
        tasks: usize,
        window: u16,
        message: &impl Fn(TaskId) -> Message,
    ) -> Result<Round> {
        let mut flying: HashMap<Bytes, Instant> = HashMap::with_capacity(window.into());
        let mut latencies = Vec::with_capacity(tasks);
        let started = Instant::now();
        let mut left = tasks;
        while latencies.len() < tasks {
            while left > 0 && flying.len() < usize::from(window) {
                left -= 1;
                self.sent += 1;
                let id =
                    TaskId::parse(&format!("bench-{}", self.sent)).map_err(anyhow::Error::msg)?;
                let correlation = Bytes::copy_from_slice(id.as_str().as_bytes());
                let mut message = message(id);
                message.properties.correlation_data = Some(correlation.clone());
                flying.insert(correlation, Instant::now());
                drop(self.publisher.publish(message));
            }
            let answer = tokio::time::timeout(PATIENCE, self.deliveries.recv()).await;
            let Some(delivery) = answer.context("no answer within 30 s")? else {
                bail!("the driver lost the broker");
            };
            if let Some(token) = delivery.token {
                token.ack();
            }
            let Some(correlation) = &delivery.inbound.properties.correlation_data else {
                continue;
            };
            if let Some(sent) = flying.remove(correlation) {
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
                succeeded(&delivery.inbound.payload)?;
            }
        }
        Ok(Round {
            took: started.elapsed(),
            latencies,
        })
    }

    /// Leaves nothing behind on a broker that is not ours.
    async fn close(&self, presence: String) {
        let _ = self
            .publisher
            .publish(Message {
                retain: true,
                ..Message::new(presence, "")
            })
            .await;
        self.publisher.close().await;
    }
}

/// An answer of the runner must be a success; the echo worker's is the task itself, which has no status.
fn succeeded(payload: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        status: Option<&'a str>,
    }
    let answer: Answer<'_> = serde_json::from_slice(payload).context("an answer is not JSON")?;
    ensure!(
        answer.status.is_none_or(|status| status == "succeeded"),
        "a task did not succeed: {}",
        String::from_utf8_lossy(payload)
    );
    Ok(())
}

/// The rounds of one side.
#[derive(Default)]
struct Rounds {
    rates: Vec<f64>,
    latencies: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, round: Round) {
        self.rates
            .push(round.latencies.len() as f64 / round.took.as_secs_f64());
        self.latencies.extend(round.latencies);
    }

    fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (share * sorted.len() as f64) as usize;
        sorted
            .get(at.min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(figures: &Figures) {
    let Figures {
        tasks,
        rounds,
        window,
        broker,
        ..
    } = figures;
    println!(
        "{rounds} alternating rounds of {tasks} tasks of each side, {window} in flight, broker {broker}"
    );
    println!("                 tasks/s    p50 ms    p99 ms  p99.9 ms");
    println!(
        "sandboxed      {:>9.0} {:>9.2} {:>9.2} {:>9.2}",
        figures.tasks_per_second, figures.p50_ms, figures.p99_ms, figures.p999_ms
    );
    println!(
        "native echo    {:>9.0} {:>9.2} {:>9.2}",
        figures.echo_tasks_per_second, figures.echo_p50_ms, figures.echo_p99_ms
    );
    println!("ratio          {:>9.2}", figures.ratio);
}
