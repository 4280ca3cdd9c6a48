//! The pure rooms alone: what the fuzz target builds, without wasmtime or rmqtt. Not a part of the runner's
//! crate, whose root is `lib.rs`; that it compiles is the proof that these rooms are pure.

pub mod admission;
pub mod envelope;
pub mod fair;
pub mod grants;
pub mod schedule;
pub mod suggest;
pub mod task;
pub mod tenants;
