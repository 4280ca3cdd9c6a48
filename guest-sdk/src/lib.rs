//! Write a wasmqtt task in ten lines of Rust.
//!
//! A task is one function: bytes in, bytes out, called once in a fresh sandbox. [`task!`] exports it as the
//! `run` of the WIT world `wasmqtt:task/task`.
//!
//! ```
//! use wasmqtt_guest::{Context, Error, info, task};
//!
//! task!(run);
//!
//! fn run(ctx: &Context, input: String) -> Result<String, Error> {
//!     info!("{} bytes of text for task {}", input.len(), ctx.id);
//!     Ok(input.to_uppercase())
//! }
//! ```
//!
//! The same with typed JSON in and out:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use wasmqtt_guest::{Context, Error, task};
//!
//! #[derive(Deserialize)]
//! struct Order { price: f64, quantity: u32 }
//!
//! #[derive(Serialize)]
//! struct Invoice { total: f64 }
//!
//! task!(json run);
//!
//! fn run(_ctx: &Context, order: Order) -> Result<Invoice, Error> {
//!     if order.quantity == 0 {
//!         return Err(Error::reject("an order of nothing"));
//!     }
//!     Ok(Invoice { total: order.price * f64::from(order.quantity) })
//! }
//! ```
//!
//! The crate that holds it is a `cdylib`; one command makes a component of it:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//! ```
//!
//! ```text
//! cargo build --release --target wasm32-wasip2
//! ```
//!
//! Everything here compiles on the host too, so that the logic of a task is tested with a plain `cargo test`:
//! there, log lines and progress go to stderr, nothing is ever canceled, and fuel never ends.
//!
//! What the crate owns: the bindings of `wit/` and a Rust face for them. It must not know how a task came to
//! the guest or where its outcome goes.

#![deny(missing_docs)]

mod convert;
mod error;
mod host;
mod publish;
#[doc(hidden)]
pub mod task;

pub use convert::{FromInput, IntoOutput, Json};
pub use error::Error;
pub use host::{Level, fuel_remaining, is_cancelled, log, progress};
pub use publish::{PublishError, publish};
pub use task::{Context, Output};

/// The generated bindings, for the macros of this crate only.
#[doc(hidden)]
#[allow(
    unsafe_code,
    reason = "the canonical ABI is raw pointers; wit-bindgen generates all of it"
)]
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    unreachable_pub,
    rust_2018_idioms,
    reason = "generated code"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        // What a guest does not call it does not import.
        world: "publishing-task",
        additional_derives: [PartialEq, Eq],
        pub_export_macro: true,
        export_macro_name: "export_task",
        default_bindings_module: "wasmqtt_guest::bindings",
    });
}

/// Exports a function as the task of this module. Once in a crate.
///
/// | form | signature of `run` |
/// | --- | --- |
/// | `task!(run)` | `fn(&Context, impl FromInput) -> Result<impl IntoOutput, Error>`: [`Vec<u8>`], [`String`] or [`Json`] in; those, `&'static str`, `()` or [`Output`] out |
/// | `task!(json run)` | `fn(&Context, T) -> Result<U, Error>`: `T` deserialized from JSON, `U` serialized to it, by serde |
///
/// The error may be any type that converts into [`Error`].
///
/// Input that does not convert ends the task with [`Error::Reject`] and the converter's message: it would
/// not convert on another attempt either.
///
/// ```
/// use wasmqtt_guest::{Context, Error, Output, task};
///
/// task!(run);
///
/// fn run(_ctx: &Context, input: Vec<u8>) -> Result<Output, Error> {
///     Ok(Output::new(input, "application/octet-stream"))
/// }
/// ```
#[macro_export]
macro_rules! task {
    (json $run:path) => {
        $crate::task!(@export $crate::task::call_json, $run);
    };
    ($run:path) => {
        $crate::task!(@export $crate::task::call, $run);
    };
    (@export $call:path, $run:path) => {
        const _: () = {
            struct Task;

            impl $crate::bindings::Guest for Task {
                fn run(
                    ctx: $crate::Context,
                    input: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<$crate::Output, $crate::bindings::Error> {
                    $call($run, &ctx, input)
                }
            }

            // On the host nothing is exported, for a test binary may hold many tasks; but it is all in use.
            #[cfg(not(target_family = "wasm"))]
            const _: fn(
                $crate::Context,
                ::std::vec::Vec<u8>,
            ) -> ::std::result::Result<$crate::Output, $crate::bindings::Error> =
                <Task as $crate::bindings::Guest>::run;

            #[cfg(target_family = "wasm")]
            $crate::bindings::export_task!(Task with_types_in $crate::bindings);
        };
    };
}
