//! What the guests share: bindings of interfaces that have no crate.

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
mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "capabilities",
        generate_all,
    });
}

pub use bindings::wasi::{config, keyvalue};
