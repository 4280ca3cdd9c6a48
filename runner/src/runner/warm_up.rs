//! Modules that are compiled before the runner says that it is ready.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::Config;
use crate::modules::ModuleStore;
use crate::tenants::Tenants;

/// Loads what the configuration names, each as a task of its tenant would. One that fails is warned of, or with
/// `runner.strict` an error.
pub(super) async fn warm_up(
    config: &Config,
    tenants: &Tenants,
    modules: &Arc<ModuleStore>,
) -> Result<()> {
    let mut loading = JoinSet::new();
    for (tenant, reference) in config.warm_up()? {
        let policy = tenants.policy(&tenant);
        let policy = policy.with_context(|| format!("tenant {tenant} is not served"))?;
        let modules = modules.clone();
        loading.spawn(async move {
            let started = Instant::now();
            let loaded = modules
                .resolve(&tenant, &policy, &reference, Instant::now())
                .await;
            (tenant, reference, loaded, started.elapsed())
        });
    }
    while let Some(loaded) = loading.join_next().await {
        let (tenant, module, loaded, took) = loaded.context("failed to warm up")?;
        match loaded {
            Ok((_, hit)) => {
                info!(%tenant, %module, cache = hit.as_str(), ?took, "module warmed up");
            }
            Err(error) if config.runner.strict => {
                bail!(
                    "failed to warm up module {module} of tenant {tenant}: {error} (`runner.strict`)"
                )
            }
            Err(error) => warn!(%tenant, %module, %error, "module not warmed up"),
        }
    }
    Ok(())
}
