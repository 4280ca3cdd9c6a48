//! The folders of a trial, and what every runner process in it is started with.

use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;
use tokio::process::Command;
use wasmqtt_tests::guests;

/// The shortest keep-alive that the client takes, in seconds.
const KEEP_ALIVE_S: &str = "5";

/// Modules, compiled modules and state; gone with the trial.
pub(crate) struct Ground {
    folder: TempDir,
    /// Where the runners keep their journals and slots.
    state: PathBuf,
}

impl Ground {
    pub(crate) fn new(state: Option<&Path>) -> Ground {
        let folder = TempDir::new().expect("a folder");
        let modules = folder.path().join("modules");
        std::fs::create_dir(&modules).expect("a folder");
        for (name, module) in [
            ("burn.wasm", guests::BURN),
            ("echo.wasm", guests::ECHO),
            ("nap.wasm", guests::NAP),
        ] {
            std::fs::write(modules.join(name), module).expect("a module");
        }
        let state = state.map_or_else(|| folder.path().join("state"), Path::to_owned);
        Ground { folder, state }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Arguments of a runner. With slots all have one name, and the state folder keeps them apart.
    pub(crate) fn args(&self, name: &str) -> Vec<String> {
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        let mut args = vec!["--modules".to_owned(), text(&self.path().join("modules"))];
        if has_slots() {
            args.extend(["--name".to_owned(), "faults".to_owned()]);
            args.extend(["--state".to_owned(), text(&self.state)]);
        } else {
            args.extend(["--name".to_owned(), name.to_owned()]);
        }
        args
    }

    /// Environment of a runner.
    pub(crate) fn env(&self, mut command: Command) -> Command {
        command
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env("WASMQTT_MQTT_KEEP_ALIVE_S", KEEP_ALIVE_S)
            .env("WASMQTT_MODULES_PUBLISHED", "false");
        command
    }
}

/// Whether `serve` keeps a journal and takes a slot.
pub(crate) fn has_slots() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let help = StdCommand::new(env!("CARGO_BIN_EXE_wasmqtt-under-test"))
            .args(["serve", "--help"])
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        String::from_utf8_lossy(&help.stdout).contains("--state")
    })
}
