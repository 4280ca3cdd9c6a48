//! wasmqtt: a WebAssembly task runner over MQTT. See ARCHITECTURE.md for the map.

#![warn(missing_docs)]

pub mod access;
pub mod admission;
pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod contract;
pub mod dial;
pub mod doctor;
pub mod envelope;
pub mod fair;
pub mod grants;
pub mod hardening;
pub mod journal;
pub mod keyvalue;
pub mod modules;
pub mod mqtt;
pub mod project;
pub mod quota;
pub mod recurring;
pub mod relay;
pub mod runner;
pub mod sandbox;
pub mod schedule;
pub mod stamp;
pub mod suggest;
pub mod task;
pub mod tenants;
