//! Rust: one `cargo build` makes a component.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::project::build::Workshop;
use crate::project::language::{Language, Tool};

/// Rust, with the SDK as a folder of the project: it is in no registry.
pub(super) const LANGUAGE: Language = Language {
    name: "rust",
    also: &["rs"],
    template: &[
        ("task.toml", include_str!("templates/rust/task.toml")),
        ("README.md", include_str!("templates/rust/README.md")),
        ("Cargo.toml", include_str!("templates/rust/Cargo.toml.in")),
        ("Cargo.lock", include_str!("templates/rust/Cargo.lock.in")),
        (
            "rust-toolchain.toml",
            include_str!("../../../rust-toolchain.toml"),
        ),
        ("src/lib.rs", include_str!("templates/rust/src/lib.rs")),
        (
            "sample/input.txt",
            include_str!("templates/rust/sample/input.txt"),
        ),
        (
            "sample/output.txt",
            include_str!("templates/rust/sample/output.txt"),
        ),
        ("sample/empty.txt", ""),
        (
            "sdk/Cargo.toml",
            include_str!("templates/rust/sdk/Cargo.toml.in"),
        ),
        (
            "sdk/README.md",
            include_str!("../../../guest-sdk/README.md"),
        ),
        (
            "sdk/src/lib.rs",
            include_str!("../../../guest-sdk/src/lib.rs"),
        ),
        (
            "sdk/src/convert.rs",
            include_str!("../../../guest-sdk/src/convert.rs"),
        ),
        (
            "sdk/src/error.rs",
            include_str!("../../../guest-sdk/src/error.rs"),
        ),
        (
            "sdk/src/host.rs",
            include_str!("../../../guest-sdk/src/host.rs"),
        ),
        (
            "sdk/src/publish.rs",
            include_str!("../../../guest-sdk/src/publish.rs"),
        ),
        (
            "sdk/src/task.rs",
            include_str!("../../../guest-sdk/src/task.rs"),
        ),
    ],
    wit: true,
    made: &["target"],
    tools: &[&CARGO],
    build,
};

static CARGO: Tool = Tool {
    name: "cargo, by rustup",
    programs: &["cargo"],
    install: "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh",
};

const TARGET: &str = "wasm32-wasip2";

fn build(workshop: &Workshop<'_>) -> Result<Vec<u8>> {
    require_target(workshop)?;
    let mut cargo = workshop.command(&CARGO)?;
    // Not where a configuration of cargo's says: the component is looked for below.
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let target = workshop.folder().join(target);
    cargo
        .args(["build", "--release", "--target", TARGET, "--target-dir"])
        .arg(&target);
    workshop.run(cargo)?;
    workshop.read(&target.join(TARGET).join("release/task.wasm"))
}

/// Without the target rustc says "can't find crate for `core`" and leaves the rest to the reader.
fn require_target(workshop: &Workshop<'_>) -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(workshop.folder())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let printed = rustc.output().context("failed to start rustc")?;
    let libdir = String::from_utf8_lossy(&printed.stdout);
    if !printed.status.success() || !std::path::Path::new(libdir.trim()).is_dir() {
        bail!(
            "this Rust toolchain cannot build for {TARGET}\nto install it, in the project's folder:\n  rustup target add {TARGET}"
        );
    }
    Ok(())
}
