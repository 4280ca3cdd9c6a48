//! Builds guests from source, for the build scripts of the examples and of the tests.
//!
//! What it owns: how a guest becomes a component in the build script's `OUT_DIR`. Rust guests are packages of
//! this workspace and go through a nested cargo; guests in WebAssembly text are embedded in a WIT world. It
//! must not know which guests there are.
//!
//! ```no_run
//! fn main() -> anyhow::Result<()> {
//!     wasmqtt_guest_build::rust_guests(&["thumbnail"], &[])?;
//!     wasmqtt_guest_build::wat_guest("shout/shout.wat")?;
//!     Ok(())
//! }
//! ```
//!
//! The crate then reads them with `include_bytes!(concat!(env!("OUT_DIR"), "/thumbnail.wasm"))`.

#![deny(missing_docs)]

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

const TARGET: &str = "wasm32-wasip2";

/// Builds packages of this workspace for `wasm32-wasip2` with the profile `guest`, all in one nested cargo, and
/// copies every component that they make to `OUT_DIR`. `targets` are cargo's own flags that select them, such
/// as `--examples`; without any it is libraries (of type `cdylib`) and binaries.
///
/// The paths come back in the order of their file names: the target's name with `-` as `_`, and `.wasm`.
/// Whatever the components are made from is watched by `cargo:rerun-if-changed`.
///
/// # Errors
///
/// When the target is not installed (the message names the command that installs it), when cargo fails, or
/// when a package makes no component. Not called from a build script, it has no `OUT_DIR` and says so.
pub fn rust_guests(packages: &[&str], targets: &[&str]) -> Result<Vec<PathBuf>> {
    require_target()?;
    let out_dir = out_dir()?;
    let mut cargo = nested_cargo()?;
    // The outer cargo has just written or checked the lock file: a difference is a mistake. With it, and the
    // packages in cargo's cache, the build needs no network.
    cargo.args([
        "build",
        "--locked",
        "--profile",
        "guest",
        "--target",
        TARGET,
        "--target-dir",
    ]);
    cargo.arg(nested_target_dir(&out_dir));
    cargo
        .args(["--message-format", "json-render-diagnostics"])
        .args(targets);
    for package in packages {
        cargo.args(["--package", package]);
    }

    let built = cargo
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output();
    let built = built.context("failed to start the nested cargo")?;
    ensure!(
        built.status.success(),
        "failed to build the guests {}",
        packages.join(", ")
    );

    let mut components = BTreeSet::new();
    let mut sources = BTreeSet::new();
    for line in built.stdout.split(|&byte| byte == b'\n') {
        let Ok(Message {
            manifest_path,
            filenames,
        }) = serde_json::from_slice(line)
        else {
            continue;
        };
        if manifest_path.starts_with(workspace_root()) {
            sources.extend(manifest_path.parent().map(Path::to_owned));
        }
        for built in filenames
            .iter()
            .filter(|path| path.extension().is_some_and(|it| it == "wasm"))
        {
            components.insert(keep(built, &out_dir)?);
        }
    }
    watch_rust(&sources);
    Ok(components.into_iter().collect())
}

/// Builds one guest from WebAssembly text to `OUT_DIR`: a core module is embedded in the world
/// `wasmqtt:task/task` of this workspace, a component is taken as it is. Returns the path; the file name is
/// that of the text with `-` as `_`, and `.wasm`. The text and `wit/` are watched.
///
/// # Errors
///
/// When the file cannot be read or does not parse, or the module does not fit the world.
pub fn wat_guest(path: impl AsRef<Path>) -> Result<PathBuf> {
    let path = path.as_ref();
    let wit = workspace_root().join("wit");
    let component = wat_component(path, &wit, "task")?;
    let name = file_name(path)?;
    let to = out_dir()?.join(name);
    fs::write(&to, component).with_context(|| format!("failed to write {}", to.display()))?;
    watch(path);
    watch(&wit);
    Ok(to)
}

/// Encodes WebAssembly text as a component: a core module is embedded in the world named `world` of the WIT
/// package in the folder `wit_dir`, text that is a component already is only encoded. Pure but for reading
/// the files: it needs no `OUT_DIR` and prints nothing.
///
/// # Errors
///
/// When a file cannot be read or does not parse, when there is no such world, or when the module's imports and
/// exports do not fit it.
pub fn wat_component(
    path: impl AsRef<Path>,
    wit_dir: impl AsRef<Path>,
    world: &str,
) -> Result<Vec<u8>> {
    let (path, wit_dir) = (path.as_ref(), wit_dir.as_ref());
    let mut module = wat::parse_file(path)?;
    // The preamble's last two bytes are the layer: 0 for a core module, 1 for a component.
    if module.get(6..8) == Some(&[1, 0]) {
        return Ok(module);
    }
    let in_world = || format!("failed to fit {} into the world {world}", path.display());
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit_dir)?;
    let world = resolve.select_world(&[package], Some(world))?;
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .with_context(in_world)?;
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .with_context(in_world)
}

/// The part of cargo's `compiler-artifact` message that matters here.
#[derive(Deserialize)]
struct Message {
    manifest_path: PathBuf,
    filenames: Vec<PathBuf>,
}

/// Without the target rustc says "can't find crate for `core`" and leaves the rest to the reader.
fn require_target() -> Result<()> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let printed = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output();
    let printed = printed.context("failed to start rustc")?;
    let libdir = String::from_utf8_lossy(&printed.stdout);
    if printed.status.success() && Path::new(libdir.trim()).is_dir() {
        return Ok(());
    }
    let message = format!(
        "the guests are built for {TARGET}, which this toolchain lacks; install it with: rustup target add {TARGET}"
    );
    println!("cargo::error={message}");
    bail!(message)
}

/// The same cargo, without what the outer one was told for the outer build only.
fn nested_cargo() -> Result<Command> {
    let cargo = env::var_os("CARGO").context("CARGO is not set: this is not a build script")?;
    let mut cargo = Command::new(cargo);
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_the_outer_build(name)) {
        cargo.env_remove(name);
    }
    Ok(cargo)
}

/// Flags and wrappers are for the host (a linker, clippy, coverage, sanitizers): a guest built with them
/// fails to build or carries a runtime that it cannot use. The jobserver and the network settings stay.
fn is_of_the_outer_build(name: &OsString) -> bool {
    const NAMES: [&str; 12] = [
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_ENCODED_RUSTDOCFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
        "CLIPPY_TERMINAL_WIDTH",
        "LLVM_PROFILE_FILE",
    ];
    let name = name.to_string_lossy();
    NAMES.contains(&&*name)
        || name.starts_with("CARGO_LLVM_COV")
        || name.starts_with("__CARGO_")
        || (name.starts_with("CARGO_BUILD_") && name != "CARGO_BUILD_JOBS")
        || (name.starts_with("CARGO_TARGET_") && name.ends_with("_RUSTFLAGS"))
}

/// One for all build scripts of an outer profile, beside their `build` folder: what guests have in common, above
/// all the bindings' generator, is then built once. Two nested cargos wait for each other.
fn nested_target_dir(out_dir: &Path) -> PathBuf {
    let build = out_dir.ancestors().find(|dir| dir.ends_with("build"));
    build
        .and_then(Path::parent)
        .unwrap_or(out_dir)
        .join("guests")
}

/// Copies a component out of the nested target folder, which the next nested cargo may write to.
fn keep(built: &Path, out_dir: &Path) -> Result<PathBuf> {
    let to = out_dir.join(file_name(built)?);
    fs::copy(built, &to).with_context(|| format!("failed to copy {}", built.display()))?;
    Ok(to)
}

fn file_name(guest: &Path) -> Result<String> {
    let stem = guest
        .file_stem()
        .with_context(|| format!("{} names no file", guest.display()))?;
    Ok(format!("{}.wasm", stem.to_string_lossy().replace('-', "_")))
}

fn watch_rust(packages: &BTreeSet<PathBuf>) {
    for package in packages {
        for part in ["Cargo.toml", "src", "examples"] {
            watch(&package.join(part));
        }
    }
    // The profile and the versions of everything.
    for part in ["Cargo.toml", "Cargo.lock", "wit"] {
        watch(&workspace_root().join(part));
    }
}

fn watch(path: &Path) {
    // A path that does not exist would make cargo run the build script every time.
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

fn out_dir() -> Result<PathBuf> {
    env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .context("OUT_DIR is not set: this is not a build script")
}

fn workspace_root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}
