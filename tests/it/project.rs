//! Projects, as their author has them: new, build, test, run, dev.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use wasmqtt::project::language::{self, Language};
use wit_bindgen_core::wit_parser::Resolve;

use crate::cli::{Ended, Shell};
use crate::{languages, shown};

/// Catches a hang: CPython takes a minute to build and to compile on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn rust() {
    from_nothing("rust").await;
}

pub(crate) async fn c() {
    from_nothing("c").await;
}

pub(crate) async fn zig() {
    from_nothing("zig").await;
}

pub(crate) async fn assemblyscript() {
    from_nothing("assemblyscript").await;
}

pub(crate) async fn typescript() {
    from_nothing("typescript").await;
}

pub(crate) async fn javascript() {
    from_nothing("javascript").await;
}

pub(crate) async fn python() {
    from_nothing("python").await;
}

pub(crate) async fn go() {
    from_nothing("go").await;
}

pub(crate) async fn wat() {
    from_nothing("wat").await;
}

/// The trials that cannot be run here, as the list of tests names them, and the languages of them.
pub(crate) fn left_out() -> Vec<(String, &'static str)> {
    let lacking = language::ALL.iter().filter(|it| !languages::complete(it));
    let of = |language: &&'static Language| (format!("project::{}", language.name), language.name);
    lacking.map(of).collect()
}

/// What `new` writes builds and does what its own samples say.
async fn from_nothing(language: &str) {
    let shell = Shell::new();
    let new = shell.call(&["new", "hello-2", "--lang", language]).await;
    let listed = new.code(0);
    for line in listed.text().lines().take_while(|line| !line.is_empty()) {
        assert!(shell.path().join(line).is_file(), "{line}");
    }
    let tested = to_end(project(&shell, &["test", "hello-2"])).await.code(0);
    let text = tested.text();
    assert!(text.contains("samples as expected"), "{text}");
    assert!(!text.contains("FAILED"), "{text}");
    assert!(shell.path().join("hello-2/build/hello-2.wasm").is_file());
    let ignored = fs::read_to_string(shell.path().join("hello-2/.gitignore"));
    assert!(ignored.expect("a file").contains("/build/"));
}

/// A command with the toolchains; cargo's own folder is kept from run to run.
fn project(shell: &Shell, arguments: &[&str]) -> Command {
    let mut command = shell.command(arguments);
    command.env("PATH", languages::path()).env(
        "CARGO_TARGET_DIR",
        concat!(env!("CARGO_TARGET_TMPDIR"), "/project"),
    );
    command
}

async fn to_end(mut command: Command) -> Ended {
    let output = timeout(PATIENCE, command.output()).await;
    let output = output.expect("ended in time").expect("it runs");
    Ended {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

pub(crate) async fn nothing_is_overwritten() {
    let shell = Shell::new();
    shell.call(&["new", "mine", "--lang", "wat"]).await.code(0);
    shell.write("mine/src/task.wat", b"of mine");
    let again = shell.call(&["new", "mine", "--lang", "zig"]).await.code(1);
    assert!(
        again.stderr.contains("mine is not empty"),
        "{}",
        again.stderr
    );
    assert_eq!(again.text(), "");
    let kept = fs::read(shell.path().join("mine/src/task.wat"));
    assert_eq!(kept.expect("a file"), b"of mine");
    assert!(!shell.path().join("mine/requirements.txt").exists());

    let mut said = Vec::new();
    for arguments in [
        &["new", "Mine", "--lang", "wat"][..],
        &["new", "other", "--lang", "rest"],
        &["new", "other"],
    ] {
        let refused = shell.call(arguments).await.code(2);
        said.push(format!(
            "$ wasmqtt {}\n{}",
            arguments.join(" "),
            refused.stderr
        ));
    }
    for command in ["build", "test", "run", "dev"] {
        let refused = shell.call(&[command]).await.code(1);
        let folder = shell.path().canonicalize().expect("a folder");
        let text = refused
            .stderr
            .replace(&*folder.to_string_lossy(), "[folder]");
        said.push(format!("$ wasmqtt {command}\n{text}"));
    }
    shown::exactly("project_refused", &said.join("\n"));
}

pub(crate) async fn what_is_missing_is_named() {
    let shell = Shell::new();
    let mut said = Vec::new();
    for language in language::ALL.iter().filter(|it| !it.tools.is_empty()) {
        let name = language.name;
        shell.call(&["new", name, "--lang", name]).await.code(0);
        let mut build = shell.command(&["build", name]);
        build.env("PATH", shell.path());
        let refused = to_end(build).await.code(1);
        assert_eq!(refused.text(), "");
        assert!(!shell.path().join(name).join("build").exists());
        said.push(format!("$ wasmqtt build {name}\n{}", refused.stderr));
    }
    shown::exactly("project_missing", &said.join("\n"));
}

/// With a toolchain that says what it has to say on both streams.
pub(crate) async fn a_toolchains_error_is_shown_once() {
    let shell = Shell::new();
    shell.call(&["new", "z", "--lang", "zig"]).await.code(0);
    let script = "#!/bin/sh\necho \"compiling in $(pwd)\"\necho 'src/main.zig:7: error: unwritten' >&2\nexit 3\n";
    stand_in(&shell, script);
    for command in ["build", "run", "test"] {
        let failed = shell.call(&[command, "z"]).await.code(1);
        assert_eq!(failed.text(), "", "{command}");
        let folder = shell.path().canonicalize().expect("a folder");
        let folder = folder.display();
        assert_eq!(
            failed.stderr,
            format!(
                "compiling in {folder}/z\nsrc/main.zig:7: error: unwritten\n\
                 error: python-zig failed (exit status: 3); why is said above\n"
            )
        );
    }
    assert!(!shell.path().join("z/build/z.wasm").exists());
}

/// A toolchain that takes its time, while somebody saves: what it made is of the file before.
pub(crate) async fn saved_while_it_is_built() {
    let shell = Shell::new();
    shell.call(&["new", "w", "--lang", "wat"]).await.code(0);
    shell.call(&["new", "z", "--lang", "zig"]).await.code(0);
    let module = wat::parse_file(shell.path().join("w/src/task.wat")).expect("a module");
    shell.write("core.wasm", &module);
    let script = "#!/bin/sh\n[ -e ../builds ] || echo '//' >> src/main.zig\necho >> ../builds\n\
                  for last; do :; done\ncp ../core.wasm \"${last#-femit-bin=}\"\n";
    stand_in(&shell, script);
    let builds = || fs::read(shell.path().join("builds")).expect("a file").len();
    shell.call(&["build", "z"]).await.code(0);
    assert_eq!(builds(), 1);
    for _ in 0..2 {
        shell.call(&["run", "z"]).await.code(0);
        assert_eq!(builds(), 2, "once more, and then it is current");
    }
}

/// Puts a script in zig's place.
fn stand_in(shell: &Shell, script: &str) {
    fs::create_dir_all(shell.path().join("z/.venv/bin")).expect("a folder");
    let zig = shell.path().join("z/.venv/bin/python-zig");
    fs::write(&zig, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&zig, mode).expect("changed");
}

pub(crate) async fn what_is_built_is_checked() {
    let shell = Shell::new();
    shell.call(&["new", "w", "--lang", "wat"]).await.code(0);
    let whole = fs::read_to_string(shell.path().join("w/src/task.wat")).expect("text");
    let manifest = fs::read_to_string(shell.path().join("w/task.toml")).expect("text");
    let mut said = Vec::new();
    let publishes = r#"(module (import "wasmqtt:task/publish@0.1.0" "publish" (func (param i32 i32 i32 i32 i32 i32 i32 i32)))"#;
    for (about, text, manifest) in [
        ("no text", "(modul".to_owned(), manifest.clone()),
        ("no `run`", "(module)".to_owned(), manifest.clone()),
        (
            "another `run`",
            whole.replace("(param $attempt i32)", ""),
            manifest.clone(),
        ),
        ("whole", whole.clone(), manifest.clone()),
        (
            "no command",
            whole.clone(),
            manifest.replace("\"task\" ", "\"command\""),
        ),
        (
            "it publishes",
            whole.replace("(module", publishes),
            manifest.replace("\"task\" ", "\"publishing-task\""),
        ),
        (
            "it publishes, but does not say so",
            whole.replace("(module", publishes),
            manifest.clone(),
        ),
    ] {
        shell.write("w/src/task.wat", text.as_bytes());
        shell.write("w/task.toml", manifest.as_bytes());
        let built = shell.call(&["build", "w"]).await;
        let folder = shell.path().canonicalize().expect("a folder");
        said.push(format!(
            "# {about}: exit code {:?}\n{}{}",
            built.code,
            built.text(),
            built.stderr.replace(&*folder.to_string_lossy(), "[folder]")
        ));
    }
    shown::same("project_checked", &said.join("\n"));
}

pub(crate) async fn run_and_test() {
    let shell = Shell::new();
    shell.call(&["new", "w", "--lang", "wat"]).await.code(0);
    let folder = shell.path().join("w");
    let within = |arguments: &[&str]| {
        let mut command = shell.command(arguments);
        command.current_dir(&folder);
        command
    };
    // Built when it has to be, on the first sample.
    let ran = to_end(within(&["run"])).await.code(0);
    assert_eq!(ran.text(), "HELLO, WORLD\n");
    let other = to_end(within(&["run", "--input", "other"])).await.code(0);
    assert_eq!(other.text(), "OTHER");
    let built = fs::metadata(folder.join("build/w.wasm")).and_then(|it| it.modified());
    let built = built.expect("built");
    let from_outside = shell.call(&["run", "w"]).await.code(0);
    assert_eq!(from_outside.text(), "HELLO, WORLD\n");
    let same = fs::metadata(folder.join("build/w.wasm")).and_then(|it| it.modified());
    assert_eq!(same.expect("built"), built, "it was current");

    let tested = to_end(within(&["test"])).await.code(0);
    assert!(tested.text().ends_with("1 of 1 samples as expected\n"));
    // A source that is younger, and an output that is another.
    change(&folder, "i32.const 97", "i32.const 107");
    let failed = to_end(within(&["test"])).await.code(3);
    let text = failed.text();
    assert!(text.starts_with("FAILED sample/input.txt"), "{text}");
    assert!(text.contains("-HELLO, WORLD"), "{text}");
    assert!(text.ends_with("0 of 1 samples as expected\n"), "{text}");

    // Limits of the manifest, and an error that is expected.
    change(&folder, "i32.const 107", "i32.const 97");
    let manifest = fs::read_to_string(folder.join("task.toml")).expect("text");
    let expects = manifest.replace(
        "output = \"sample/output.txt\"",
        "error = \"fuel_exhausted\"",
    );
    let limited = format!("{expects}\n[limits]\nfuel = 50\n");
    shell.write("w/task.toml", limited.as_bytes());
    to_end(within(&["test"])).await.code(0);
    let ran = to_end(within(&["run"])).await.code(3);
    assert!(ran.stderr.contains("fuel_exhausted"), "{}", ran.stderr);
    let given = to_end(within(&["run", "--fuel", "100k"])).await.code(0);
    assert_eq!(given.text(), "HELLO, WORLD\n");
}

fn change(folder: &Path, from: &str, to: &str) {
    let source = folder.join("src/task.wat");
    let text = fs::read_to_string(&source).expect("text");
    assert!(text.contains(from), "{text}");
    fs::write(&source, text.replace(from, to)).expect("written");
}

pub(crate) async fn dev_shows_what_changed() {
    let shell = Shell::new();
    shell.call(&["new", "w", "--lang", "wat"]).await.code(0);
    let folder = shell.path().join("w");
    let mut dev = Dev::start(&shell, "w");
    let first = dev.round().await;
    assert!(first.contains("broker at mqtt://127.0.0.1:"), "{first}");
    assert!(first.contains("\nHELLO, WORLD\nas expected\n"), "{first}");

    change(&folder, "i32.const 97", "i32.const 107");
    let second = dev.round().await;
    assert!(second.contains("changed: src/task.wat\n"), "{second}");
    assert!(
        second.contains("\n-HELLO, WORLD\n+heLLO, WORLd\n"),
        "{second}"
    );
    assert!(second.contains("not as expected: "), "{second}");

    // Put back as it was long ago: a build that goes by time alone would not notice.
    let (source, old) = (folder.join("src/task.wat"), shell.path().join("old.wat"));
    let text = fs::read_to_string(&source).expect("text");
    let text = text.replace("i32.const 107", "i32.const 109");
    fs::write(&old, text).expect("written");
    let file = fs::File::options().write(true).open(&old).expect("opened");
    let then = SystemTime::now() - Duration::from_secs(86_400);
    file.set_modified(then).expect("set");
    fs::rename(&old, &source).expect("renamed");
    let restored = dev.round().await;
    assert!(restored.contains("\n+hellO, WORld\n"), "{restored}");

    // A sample alone: nothing is built, the rest is the same.
    shell.write("w/sample/input.txt", b"z\n");
    let third = dev.round().await;
    assert!(third.contains("\n-hellO, WORld\n+Z\n"), "{third}");
    assert!(!third.contains("published"), "{third}");

    // What does not build ends nothing.
    shell.write("w/src/task.wat", b"(module");
    let fourth = dev.round().await;
    assert_eq!(fourth.lines().count(), 2, "{fourth}");
    shell.write("w/task.toml", b"name = 7");
    dev.round().await;
    shell.call(&["new", "again", "--lang", "wat"]).await.code(0);
    for file in ["src/task.wat", "task.toml"] {
        let text = fs::read_to_string(shell.path().join("again").join(file)).expect("text");
        let text = text.replace("again", "w");
        fs::write(folder.join(file), text).expect("written");
    }
    // Both may be seen at once, or one after the other.
    while !dev.round().await.contains("the same output") {}

    let ended = dev.interrupt().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("error: "), "{}", ended.stderr);
}

/// A running `wasmqtt dev`.
struct Dev {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Dev {
    fn start(shell: &Shell, folder: &str) -> Dev {
        let mut command = shell.command(&["dev", folder]);
        let mut child = command.stdin(Stdio::null()).spawn().expect("started");
        let stdout = child.stdout.take().expect("a pipe");
        Dev {
            child,
            stdout: BufReader::new(stdout).lines(),
        }
    }

    /// What it says until it waits.
    async fn round(&mut self) -> String {
        let mut said = String::new();
        let round = async {
            loop {
                let line = self.stdout.next_line().await.expect("a line");
                let line = line.unwrap_or_else(|| panic!("it ended after {said}"));
                if line == "waiting for a change" {
                    break;
                }
                said += &line;
                said.push('\n');
            }
        };
        timeout(PATIENCE, round).await.expect("a round in time");
        said
    }

    async fn interrupt(self) -> Ended {
        let id = self.child.id().expect("running");
        let id = rustix::process::Pid::from_raw(id.cast_signed()).expect("an id");
        rustix::process::kill_process(id, Signal::INT).expect("sent");
        let output = timeout(PATIENCE, self.child.wait_with_output()).await;
        let output = output.expect("ended in time").expect("waited for");
        Ended {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

/// What templates have copies of is what it is a copy of. `WASMQTT_BINDINGS=write` writes C's bindings anew.
pub(crate) async fn the_templates_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let templates = root.join("runner/src/project/templates");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root.join("wit")).expect("the worlds");
    let world = resolve.select_world(&[package], Some("task")).expect("it");
    let mut files = wit_bindgen_core::Files::default();
    let options = wit_bindgen_c::Opts {
        no_object_file: true,
        ..Default::default()
    };
    let mut generator = options.build();
    generator
        .generate(&mut resolve, world, &mut files)
        .expect("bindings");
    for (name, made) in files.iter() {
        let file = templates.join("c/bindings").join(name);
        if std::env::var_os("WASMQTT_BINDINGS").is_some_and(|it| it == "write") {
            fs::write(&file, made).expect("written");
        }
        let kept = fs::read(&file).expect("bindings");
        assert!(
            kept == made,
            "{} is not what wit-bindgen makes of wit/; WASMQTT_BINDINGS=write makes it so",
            file.display()
        );
    }

    // Of the SDK every file, and the versions that the workspace has.
    let rust = language::find("rust").expect("a language");
    for entry in fs::read_dir(root.join("guest-sdk/src")).expect("the SDK") {
        let name = entry.expect("an entry").file_name();
        let path = format!("sdk/src/{}", name.to_string_lossy());
        assert!(rust.template.iter().any(|(it, _)| *it == path), "{path}");
    }
    let workspace = fs::read_to_string(root.join("Cargo.toml")).expect("text");
    let (_, sdk) = rust
        .template
        .iter()
        .find(|(path, _)| *path == "sdk/Cargo.toml")
        .expect("a manifest");
    let (_, dependencies) = sdk.split_once("[dependencies]\n").expect("dependencies");
    for line in dependencies.lines() {
        assert!(workspace.lines().any(|it| it == line), "{line}");
    }
}
