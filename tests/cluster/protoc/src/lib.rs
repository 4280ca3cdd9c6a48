//! Debian's protoc, from the package `protobuf-compiler`.

use std::path::PathBuf;

/// Found in `PATH`.
pub fn protoc() -> PathBuf {
    PathBuf::from("protoc")
}

/// Where the package keeps Google's own definitions.
pub fn include() -> PathBuf {
    PathBuf::from("/usr/include")
}
