//! `wasmqtt compile-in-jail`: what a runner starts to compile a module. Not for people.

use anyhow::Result;
use clap::Args;

use crate::modules::jail::inside::{self, Grant};

#[derive(Debug, Args)]
pub(super) struct Compile {
    #[arg(long)]
    cpu_s: u64,
    #[arg(long)]
    memory_bytes: u64,
    #[arg(long)]
    artifact_bytes: u64,
}

impl Compile {
    pub(super) fn run(self) -> Result<u8> {
        inside::compile(&Grant {
            cpu_s: self.cpu_s,
            memory_bytes: self.memory_bytes,
            artifact_bytes: self.artifact_bytes,
        })
    }
}
