//! `wasmqtt dev`: build, push and run a project again at every save, in one process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cli::report::{bytes, count};
use crate::cli::serve::Shutdown;
use crate::cli::together::Together;
use crate::cli::{OK, network_runtime};
use crate::client::Update;
use crate::envelope::answer::Request;
use crate::modules::Content;
use crate::project::watch::Files;
use crate::project::{Project, build, difference};
use crate::task::outcome::Outcome;
use crate::task::{Digest, ModuleRef};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long an outcome is waited for: compiling a large module on a busy machine is the most of it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Work on a project: at every save it is built, published and run on its first sample
///
/// Starts a broker on a free port of this machine and a runner, both in this process. The output is shown, then after
/// each change what is different from the one before, and whether it is what task.toml expects. Errors of the toolchain
/// are shown and end nothing. Any MQTT client can use the broker meanwhile; Ctrl-C ends it all.
///
/// Example: wasmqtt dev
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// The project's folder
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

impl Dev {
    pub(super) fn run(self) -> Result<u8> {
        // A folder that is none is said before anything is started.
        let project = Project::open(&self.folder)?;
        network_runtime()?.block_on(self.dev(&project))?;
        Ok(OK)
    }

    async fn dev(&self, project: &Project) -> Result<()> {
        let shutdown = Shutdown::listen()?;
        tokio::pin!(shutdown);
        let together = Together::start("dev").await?;
        println!(
            "broker at {}, {} is module `{}`; Ctrl-C ends",
            together.url(),
            project.folder.display(),
            project.manifest.name
        );
        let mut work = Work {
            together: &together,
            folder: &project.folder,
            built: None,
            pushed: None,
            last: None,
        };
        tokio::select! {
            () = work.again_and_again() => {}
            () = shutdown.asked() => println!("\nended"),
        }
        together.end().await
    }
}

/// What goes on between two saves.
struct Work<'a> {
    together: &'a Together,
    folder: &'a Path,
    /// What the module was built from; nothing after a build that failed.
    built: Option<Files>,
    /// The module that the broker has.
    pushed: Option<Digest>,
    last: Option<Outcome>,
}

impl Work<'_> {
    /// For as long as it is awaited.
    async fn again_and_again(&mut self) {
        loop {
            let before = self.look().await;
            if let Err(error) = self.round().await {
                eprintln!("error: {error:#}");
            }
            println!("\nwaiting for a change");
            let after = self.change(&before).await;
            for file in after.changed_since(&before) {
                let file = file.strip_prefix(self.folder).unwrap_or(file);
                println!("changed: {}", file.display());
            }
        }
    }

    /// The files as they are once they are others than before and nobody writes them any more.
    async fn change(&self, before: &Files) -> Files {
        let mut seen = self.look().await;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.look().await;
            if now == seen && now != *before {
                return now;
            }
            seen = now;
        }
    }

    async fn look(&self) -> Files {
        let folder = self.folder.to_owned();
        // While the manifest cannot be read, a change of it is still one.
        let look = move || match Project::open(&folder) {
            Ok(project) => Files::of(&project),
            Err(_) => Files::manifest(&folder),
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    async fn round(&mut self) -> Result<()> {
        let folder = self.folder.to_owned();
        let before = self.built.replace(Files::default());
        let built = tokio::task::spawn_blocking(move || {
            let project = Project::open(&folder)?;
            let sources = Files::sources(&project);
            let file = match before {
                // Also when one is gone, or was put back as it was long ago.
                Some(before) if before != sources => build::build(&project)?.file,
                _ => build::current(&project)?,
            };
            let read = std::fs::read(&file);
            let bytes = read.with_context(|| format!("failed to read {}", file.display()))?;
            anyhow::Ok((project, Content::new(bytes), sources))
        });
        let (project, content, sources) = built.await??;
        self.built = Some(sources);
        let name = &project.manifest.name;
        if self.pushed != Some(content.digest) {
            let bytes = content.bytes.clone();
            self.together.push(name, bytes).await?;
            self.pushed = Some(content.digest);
            let size = bytes_of(&content);
            println!("published {name}@{} ({size})", content.digest);
        }
        let outcome = self.task(&project, content.digest).await?;
        self.show(&project, &outcome)?;
        self.last = Some(outcome);
        Ok(())
    }

    /// Runs the first sample; the runner waits for the module that it pins.
    async fn task(&self, project: &Project, digest: Digest) -> Result<Outcome> {
        let sample = project.manifest.samples.first();
        let sample = sample.map(|sample| sample.read(project)).transpose()?;
        let module = ModuleRef::Pinned(project.manifest.name.clone(), digest);
        let mut request = Request::new(module, bytes::Bytes::new());
        if let Some(sample) = sample {
            request.input = sample.input;
            request.content_type = sample.content_type;
            request.limits = sample.limits;
        }
        request.logs = true;
        let (_, mut updates) = self.together.client.submit(&request).await?;
        let ended = async {
            while let Some(update) = updates.recv().await {
                match update {
                    Update::Log { level, message } => println!("[{level}] {message}"),
                    Update::Ended(outcome) => return Some(*outcome),
                    _ => {}
                }
            }
            None
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        let Ok(Some(outcome)) = ended else {
            bail!("no outcome within {PATIENCE:?}");
        };
        Ok(outcome)
    }

    /// The outcome, or what is different from the last one.
    fn show(&self, project: &Project, outcome: &Outcome) -> Result<()> {
        let usage = &outcome.usage;
        let last = self.last.as_ref();
        println!(
            "{} · fuel {} · memory {} · {:.1} ms",
            outcome.status,
            change(last.map(|last| count(last.usage.fuel)), count(usage.fuel)),
            change(
                last.map(|last| bytes(last.usage.peak_memory_bytes)),
                bytes(usage.peak_memory_bytes)
            ),
            usage.run_ms,
        );
        if let Some(error) = &outcome.error {
            println!("{error}");
        }
        match last.map(output) {
            None => println!("{}", String::from_utf8_lossy(output(outcome)).trim_end()),
            Some(before) => match difference::lines(before, output(outcome)) {
                Some(lines) => println!("{lines}"),
                None => println!("the same output"),
            },
        }
        let Some(sample) = project.manifest.samples.first() else {
            return Ok(());
        };
        match sample.surprise(project, outcome)? {
            None => println!("as expected"),
            Some(surprise) => println!("not as expected: {surprise}"),
        }
        Ok(())
    }
}

fn output(outcome: &Outcome) -> &[u8] {
    outcome.output.as_ref().map_or(&[], |output| &output.data)
}

fn bytes_of(content: &Content) -> String {
    bytes(content.bytes.len() as u64)
}

/// `now`, and what it was before if that was something else.
fn change(before: Option<String>, now: String) -> String {
    match before {
        Some(before) if before != now => format!("{before} → {now}"),
        _ => now,
    }
}
