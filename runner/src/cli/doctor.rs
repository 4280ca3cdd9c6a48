//! `wasmqtt doctor`: is this broker fit, and does it keep the tenants apart?

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cli::args::{Connection, parse_tenant};
use crate::cli::{FATAL_FINDING, OK, WARNING_FINDING, network_runtime};
use crate::doctor::{self, Finding, Suspect, Verdict};
use crate::task::tenant::TenantId;

/// Try a broker out: is it fit for runners, does it keep the tenants apart?
///
/// Makes connections of its own, with a runner's credentials (the configuration's) and, if they are given, a tenant's, and
/// reports what happened. It takes some seconds and touches nobody's tasks; what it leaves behind is nothing.
///
/// Example: wasmqtt doctor --broker mqtt://broker --config runner.toml --tenant-user acme --tenant-password-file acme
#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    connection: Connection,
    /// A tenant's user, whose rights are tried out
    #[arg(long, value_name = "USER", requires = "tenant_password_file")]
    tenant_user: Option<String>,
    /// The file whose first line is that user's password
    #[arg(long, value_name = "FILE", requires = "tenant_user")]
    tenant_password_file: Option<PathBuf>,
    /// Whose user it is [default: the tenant of the user's name]
    #[arg(long, value_parser = parse_tenant, requires = "tenant_user")]
    tenant: Option<TenantId>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.connection.load(&[])?;
        let suspect = self.suspect()?;
        let findings = network_runtime()?.block_on(doctor::examine(&config, suspect.as_ref()))?;
        if self.json {
            println!(
                "{:#}",
                serde_json::json!({"broker": config.mqtt.url, "findings": findings})
            );
        } else {
            print(&findings);
        }
        let worst = findings.iter().map(|finding| finding.verdict).max();
        Ok(match worst {
            Some(Verdict::Fatal) => FATAL_FINDING,
            Some(Verdict::Warning) => WARNING_FINDING,
            _ => OK,
        })
    }

    fn suspect(&self) -> Result<Option<Suspect>> {
        let (Some(user), Some(path)) = (&self.tenant_user, &self.tenant_password_file) else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let password = text.lines().next().unwrap_or_default().to_owned();
        let tenant = match &self.tenant {
            Some(tenant) => tenant.clone(),
            None => TenantId::parse(user)
                .map_err(anyhow::Error::msg)
                .context("the user is not named like a tenant: say which with --tenant")?,
        };
        Ok(Some(Suspect {
            tenant,
            credentials: (user.clone(), password),
        }))
    }
}

fn print(findings: &[Finding]) {
    let width = findings
        .iter()
        .map(|finding| finding.check.len())
        .max()
        .unwrap_or(0);
    for Finding {
        check,
        verdict,
        says,
    } in findings
    {
        let verdict = match verdict {
            Verdict::Fine => "fine",
            Verdict::Notice => "notice",
            Verdict::Warning => "WARNING",
            Verdict::Fatal => "FATAL",
        };
        println!("{check:width$}  {verdict:7}  {says}");
    }
}
