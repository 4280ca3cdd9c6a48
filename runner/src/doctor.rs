//! Tries a live broker out with connections of its own: is it fit for runners, does it keep the tenants apart?
//!
//! What it says is what happened, not what the broker claims, where that can be made to happen without touching anybody's
//! tasks: on topics of its own, in groups of its own, under a tenant that there is not. Its sessions end with it, and what it retains
//! is cleared.

mod fitness;
mod tenant;

use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::mqtt::probe::Probe;
use crate::mqtt::settings::Settings;
use crate::runner::start::base_settings;
use crate::task::TaskId;
use crate::task::tenant::TenantId;

/// How long something must not come to count as not coming.
const SILENCE: Duration = Duration::from_millis(700);

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// Worth knowing, or it could not be tried.
    Notice,
    /// It works, but not under every circumstance.
    Warning,
    /// Tasks are lost, or tenants are not kept apart.
    Fatal,
}

/// What one trial showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was tried.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What happened, and what to do.
    pub says: String,
}

/// Somebody whose rights are tried out.
#[derive(Debug, Clone)]
pub struct Suspect {
    /// Whose user it is.
    pub tenant: TenantId,
    /// User name and password.
    pub credentials: (String, String),
}

/// What a trial needs.
struct Trial<'a> {
    config: &'a Config,
    /// Different each time, and in every topic and client id.
    mark: String,
    findings: Vec<Finding>,
}

/// Tries everything; takes some seconds. The credentials are the configuration's, which should be a runner's.
///
/// # Errors
/// When there is no connection, so that nothing can be tried.
pub async fn examine(config: &Config, suspect: Option<&Suspect>) -> anyhow::Result<Vec<Finding>> {
    let mut trial = Trial::new(config);
    trial.fitness(true).await?;
    trial.strangers(suspect.is_some()).await?;
    if let Some(suspect) = suspect {
        trial.tenant(suspect).await?;
    }
    Ok(trial.findings)
}

/// Tries what takes no time and without which a runner cannot work.
///
/// # Errors
/// As [`examine`].
pub async fn glance(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let mut trial = Trial::new(config);
    trial.fitness(false).await?;
    trial.strangers(false).await?;
    Ok(trial.findings)
}

impl Trial<'_> {
    fn new(config: &Config) -> Trial<'_> {
        let mark = TaskId::generate().to_string();
        // The end is the random part.
        let mark = format!("doctor-{}", &mark[mark.len() - 12..]);
        Trial {
            config,
            mark,
            findings: Vec::new(),
        }
    }

    fn finds(&mut self, check: &'static str, verdict: Verdict, says: impl Into<String>) {
        let says = says.into();
        self.findings.push(Finding {
            check,
            verdict,
            says,
        });
    }

    /// Of a connection with a runner's credentials.
    fn settings(&self, name: &str) -> anyhow::Result<Settings> {
        let id = format!("{}{}-{name}", self.config.runner_client_ids(), self.mark);
        let mut settings = base_settings(self.config, &id)?;
        settings.receive_maximum = 2_000;
        settings.send_maximum = 2_000;
        Ok(settings)
    }

    async fn connect(&self, name: &str) -> anyhow::Result<Probe> {
        let settings = self.settings(name)?;
        let connected = Probe::connect(&settings, true).await;
        connected.map_err(|why| anyhow::anyhow!("failed to connect to {}: {why}", settings.address))
    }

    /// Whether the broker lets in who has no name.
    async fn strangers(&mut self, tenants: bool) -> anyhow::Result<()> {
        let mut settings = self.settings("nobody")?;
        // An id like a stranger's.
        settings.client_id = format!("{}-nobody", self.mark);
        let named = settings.credentials.take().is_some();
        let many = tenants
            || self
                .config
                .tenants
                .keys()
                .any(|name| name != TenantId::DEFAULT);
        match Probe::connect(&settings, true).await {
            Err(why) if named => self.finds("anonymous", Verdict::Fine, format!("refused: {why}")),
            Err(_) => {}
            Ok(probe) => {
                probe.end().await;
                let (verdict, what) = match (many, named) {
                    (true, _) => (
                        Verdict::Fatal,
                        "there are tenants, and whoever connects without a name can be any",
                    ),
                    (false, true) => (
                        Verdict::Warning,
                        "whoever connects without a name is let in; what that allows was not tried",
                    ),
                    (false, false) => (Verdict::Notice, "whoever can connect may do anything"),
                };
                self.finds(
                    "anonymous",
                    verdict,
                    format!("{what}: `wasmqtt acl` makes users and rights"),
                );
            }
        }
        Ok(())
    }
}
