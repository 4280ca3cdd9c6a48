//! `wasmqtt acl`: users, passwords and rights for a broker.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use tempfile::NamedTempFile;

use crate::access::dynsec::{self, Client};
use crate::access::password::{self, GENERATED, PasswordHash};
use crate::access::{Fleet, Role};
use crate::cli::OK;
use crate::cli::args::parse_tenant;
use crate::config;
use crate::config::access::is_user_name;
use crate::config::sections::DEFAULT_CLIENT_ID_PREFIX;
use crate::task::tenant::TenantId;
use crate::tenants::Source;

const RUNNER: &str = "runner";
const OPERATOR: &str = "operator";
/// Where packages put mosquitto's plugin.
const PLUGIN: &str = "mosquitto_dynamic_security.so";
const PLUGIN_FOLDERS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
    "/usr/local/lib",
];

/// Write users, passwords and rights for a broker: runners, an operator, and tenants that are kept apart
///
/// Makes a folder with the broker's configuration, a password file for each user, and the runners' share of the
/// configuration (runner.toml). Everything that is not granted is denied. Run again with more tenants it keeps the
/// passwords that are there. Passwords are only ever in the files.
///
/// Example: wasmqtt acl mosquitto --tenant acme --tenant globex --out ./acl
#[derive(Debug, Args)]
pub(super) struct Acl {
    /// For which broker
    #[arg(value_name = "BROKER")]
    target: For,
    /// A tenant, with a user of its name; `default` is the tenant of the bare topic names. May be given more than
    /// once; those of the configuration's [tenants] come by themselves
    #[arg(long = "tenant", value_name = "NAME", value_parser = parse_tenant)]
    tenants: Vec<TenantId>,
    /// One more user of a tenant
    #[arg(long = "user", value_name = "USER=TENANT", value_parser = parse_user)]
    users: Vec<(String, TenantId)>,
    /// Tenants may not publish modules
    #[arg(long)]
    no_modules: bool,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The configuration file: its tenants, group, topic root and reply topics
    #[arg(long, value_name = "FILE", env = "WASMQTT_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum For {
    /// dynamic-security.json and mosquitto.conf, for mosquitto's dynamic security plugin
    Mosquitto,
    /// users.toml, for [broker.users] of `wasmqtt serve --embedded-broker`
    Embedded,
}

impl Acl {
    pub(super) fn run(self) -> Result<u8> {
        let config = config::load(self.config.as_deref(), std::env::vars(), &[])?;
        let fleet = config.fleet()?;
        let roles = self.roles(&config.tenants)?;
        make_folder(&self.out)?;
        make_folder(&self.out.join("passwords"))?;
        let clients = clients(&self.out, &fleet, roles)?;
        let mut written = Vec::new();
        let mut write = |name: &str, text: &str| -> Result<()> {
            write_secret(&self.out.join(name), text)?;
            written.push(name.to_owned());
            Ok(())
        };
        match self.target {
            For::Mosquitto => {
                let rights = serde_json::to_string_pretty(&dynsec::config(&clients))?;
                write("dynamic-security.json", &rights)?;
                write("mosquitto.conf", &mosquitto_conf(&self.out)?)?;
            }
            For::Embedded => write("users.toml", &users_toml(&clients))?,
        }
        write("runner.toml", &runner_toml(&self.out)?)?;
        let folder = self.out.display();
        println!("{folder}: {}", written.join(", "));
        for client in &clients {
            let what = match &client.role {
                Role::Runner => "runs tasks".to_owned(),
                Role::Operator => "sees and says everything, runs nothing".to_owned(),
                Role::Tenant { tenant, modules } => {
                    let modules = if *modules { " and modules" } else { "" };
                    format!("publishes tasks{modules} of tenant {tenant}")
                }
            };
            println!("  passwords/{:<20} {what}", client.name);
        }
        Ok(OK)
    }

    fn roles(
        &self,
        listed: &BTreeMap<String, crate::config::tenants::Tenant>,
    ) -> Result<BTreeMap<String, Role>> {
        let mut roles = BTreeMap::from([
            (RUNNER.to_owned(), Role::Runner),
            (OPERATOR.to_owned(), Role::Operator),
        ]);
        let of_config = listed
            .keys()
            .map(|name| TenantId::parse(name).map_err(anyhow::Error::msg))
            .collect::<Result<Vec<_>>>()?;
        let tenants = self.tenants.iter().chain(&of_config);
        let users = tenants.map(|tenant| (tenant.to_string(), tenant.clone()));
        for (user, tenant) in users.chain(self.users.clone()) {
            ensure!(
                user != RUNNER && user != OPERATOR,
                "{user:?} is a user already: give the tenant's another name with --user NAME={tenant}"
            );
            let sources = listed.get(&tenant.to_string()).map(|t| &t.sources);
            let published = sources.is_none_or(|sources| sources.contains(&Source::Published));
            let modules = published && !self.no_modules;
            let role = Role::Tenant { tenant, modules };
            let before = roles.insert(user.clone(), role.clone());
            ensure!(
                before.is_none_or(|before| before == role),
                "the user {user:?} is given twice"
            );
        }
        Ok(roles)
    }
}

fn parse_user(text: &str) -> Result<(String, TenantId), String> {
    let (user, tenant) = text.split_once('=').ok_or("a user is USER=TENANT")?;
    if !is_user_name(user) {
        return Err("a user's name has 1 to 64 of [A-Za-z0-9_.-]".to_owned());
    }
    Ok((user.to_owned(), TenantId::parse(tenant)?))
}

fn clients(out: &Path, fleet: &Fleet, roles: BTreeMap<String, Role>) -> Result<Vec<Client>> {
    let client = |(name, role): (String, Role)| {
        let path = out.join("passwords").join(&name);
        let password = match fs::read_to_string(&path) {
            Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
            Err(_) => {
                let password = password::generate()?;
                write_secret(&path, &format!("{password}\n"))?;
                password
            }
        };
        ensure!(!password.is_empty(), "{} is empty", path.display());
        Ok(Client {
            password: PasswordHash::new(&password, GENERATED)?,
            access: fleet.access(&role, &name),
            name,
            role,
        })
    };
    roles.into_iter().map(client).collect()
}

fn mosquitto_conf(out: &Path) -> Result<String> {
    let plugin = PLUGIN_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(PLUGIN))
        .find(|path| path.exists())
        .unwrap_or_else(|| Path::new(PLUGIN_FOLDERS[0]).join(PLUGIN));
    let rights = fs::canonicalize(out)
        .with_context(|| format!("failed to find {}", out.display()))?
        .join("dynamic-security.json");
    Ok(format!(
        "# For /etc/mosquitto/conf.d. mosquitto reads the rights as its own user, and writes them when they are changed\n\
         # with mosquitto_ctrl: give it the file.\n\
         allow_anonymous false\n\
         plugin {}\n\
         plugin_opt_config_file {}\n\
         # By default what waits beyond 1,000 messages is dropped after a successful PUBACK. Not 0, for no limit: then mosquitto\n\
         # 2.0 closes the connection of whoever publishes what it may not.\n\
         max_queued_messages 10000000\n\
         # What a killed broker had acknowledged is on the disk (with `persistence true`, which Debian sets).\n\
         autosave_interval 1\n\
         autosave_on_changes true\n",
        plugin.display(),
        rights.display()
    ))
}

fn users_toml(clients: &[Client]) -> String {
    let mut text = String::new();
    for client in clients {
        let what = match &client.role {
            Role::Runner => "role = \"runner\"".to_owned(),
            Role::Operator => "role = \"operator\"".to_owned(),
            Role::Tenant { tenant, modules } => {
                format!("tenant = \"{tenant}\"\nmodules = {modules}")
            }
        };
        let (name, hash) = (&client.name, &client.password);
        let _ = write!(
            text,
            "[broker.users.\"{name}\"]\npassword_hash = \"{hash}\"\n{what}\n\n"
        );
    }
    text
}

/// What a runner's configuration has of this; the prefix that is there stays.
fn runner_toml(out: &Path) -> Result<String> {
    let before = fs::read_to_string(out.join("runner.toml")).ok();
    let before: Option<toml::Table> = before.and_then(|text| text.parse().ok());
    let before = before.and_then(|table| {
        let prefix = table.get("mqtt")?.get("client_id_prefix")?.as_str()?;
        Some(prefix.to_owned())
    });
    let prefix = match before {
        Some(prefix) => prefix,
        None => format!("{DEFAULT_CLIENT_ID_PREFIX}-{}", password::generate()?),
    };
    let mut mqtt = toml::Table::new();
    let file = fs::canonicalize(out.join("passwords").join(RUNNER))
        .context("failed to find the runner's password")?;
    mqtt.insert("username".into(), RUNNER.into());
    mqtt.insert("password_file".into(), file.display().to_string().into());
    mqtt.insert("client_id_prefix".into(), prefix.into());
    let table = toml::Table::from_iter([("mqtt".to_owned(), mqtt.into())]);
    toml::to_string(&table).context("failed to write the runner's configuration")
}

fn make_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("failed to make {}", path.display()))
}

/// Readable by us alone, and whole: never half of it.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let write = || -> Result<()> {
        let folder = path.parent().context("it is in no folder")?;
        let mut draft = NamedTempFile::new_in(folder)?;
        draft.write_all(text.as_bytes())?;
        draft.as_file().sync_all()?;
        draft.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("failed to write {}", path.display()))
}
