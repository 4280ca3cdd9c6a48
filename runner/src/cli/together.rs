//! Broker, runner and client in this process, on a free port: for `demo` and `dev`.

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::broker::{self, Broker};
use crate::client::Client;
use crate::config::Config;
use crate::envelope::Message;
use crate::modules::jail::Compiler;
use crate::runner::Runner;
use crate::runner::start::base_settings;
use crate::task::ModuleName;
use crate::task::tenant::TenantId;

/// All three; nothing of them is kept on disk.
pub(super) struct Together {
    pub(super) client: Client,
    pub(super) concurrency: usize,
    broker: Broker,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<()>>,
}

impl Together {
    /// Starts them; `name` is the runner's.
    pub(super) async fn start(name: &str) -> Result<Together> {
        let broker = Broker::start(broker::Settings::default())
            .await
            .context("failed to start the embedded broker")?;
        let mut config = Config::default();
        config.mqtt.url = broker.url();
        config.mqtt.session_expiry_s = 0;
        config.runner.name = name.to_owned();
        config.modules.cache_directory = None;
        // A large module that was just built may take this long to come.
        config.modules.lookup_ms = 10_000;
        config.modules.compiler = Compiler::jail();
        config.journal.directory = None;
        let runner = Runner::start(&config).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(runner.run(async move {
            let _ = stopped.await;
        }));
        let settings = base_settings(&config, &format!("{name}-client"))?;
        let client = Client::connect(settings, config.topics()?, TenantId::default()).await?;
        Ok(Together {
            client,
            concurrency: config.runner.concurrency,
            broker,
            stop,
            running,
        })
    }

    /// Where the broker is.
    pub(super) fn url(&self) -> String {
        self.broker.url()
    }

    /// Publishes a module of the default tenant.
    pub(super) async fn push(
        &self,
        name: &ModuleName,
        bytes: impl Into<bytes::Bytes>,
    ) -> Result<()> {
        let topic = self.client.topics().module(&TenantId::default(), name);
        let message = Message {
            retain: true,
            ..Message::new(topic, bytes)
        };
        self.client
            .publish(message)
            .await
            .context("failed to publish the module")
            .map(|_| ())
    }

    /// Ends them in good order.
    pub(super) async fn end(self) -> Result<()> {
        self.client.close().await;
        let _ = self.stop.send(());
        self.running.await??;
        self.broker.stop().await;
        Ok(())
    }
}
