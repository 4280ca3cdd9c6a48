//! An empty folder for the time of a task, `/scratch`, with a quota.
//!
//! wasmtime's filesystem has no quota, so the functions that make files, or make them grow, are taken over here. What
//! counts is growth: the size that a file has after a write or a resize beyond the size it had. Nothing is given back,
//! not for a file that is deleted (an open one keeps its space); so at no time is more on the disk than was counted,
//! but for rounding each file up to whole blocks.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tempfile::TempDir;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, Filesize, HostDescriptor as _, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{
    DynOutputStream, FsError, OutputStream, Pollable, StreamError, StreamResult,
};

use crate::sandbox::guest::Guest;
use crate::sandbox::host::charge;

/// Files and folders that one task may make.
const ENTRIES: u64 = 1_000;
/// What a call to the disk burns besides a host call.
const FILE_FUEL: usize = 5_000;

/// A task's folder; it is removed when this is dropped.
pub(super) struct Scratch {
    folder: Option<TempDir>,
    quota: Quota,
}

/// What is left. Streams have a share in it.
#[derive(Clone)]
struct Quota {
    bytes: Arc<AtomicU64>,
    entries: Arc<AtomicU64>,
}

impl Scratch {
    /// Makes a folder, below `root` if there is one.
    pub(super) async fn make(root: Option<&Path>, bytes: u64) -> Result<Scratch> {
        let root = root.map(Path::to_owned);
        let made = tokio::task::spawn_blocking(move || match root {
            Some(root) => {
                std::fs::create_dir_all(&root)?;
                builder().prefix("task-").tempdir_in(root)
            }
            None => builder().prefix("wasmqtt-task-").tempdir(),
        });
        let folder = made
            .await?
            .context("failed to make a folder for the task")?;
        Ok(Scratch {
            folder: Some(folder),
            quota: Quota {
                bytes: Arc::new(bytes.into()),
                entries: Arc::new(ENTRIES.into()),
            },
        })
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.folder.as_ref().map(TempDir::path)
    }
}

/// Of folders that nobody else may look into, whatever the umask is.
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.permissions(Permissions::from_mode(0o700));
    builder
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Removing a thousand files is no work for a guest's thread.
        if let (Some(folder), Ok(runtime)) =
            (self.folder.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn_blocking(move || drop(folder));
        }
    }
}

impl Quota {
    fn spend(left: &AtomicU64, amount: u64) -> Result<(), ErrorCode> {
        let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(amount)
        });
        spent.map(drop).map_err(|_| ErrorCode::Quota)
    }

    /// Before a file has `end` bytes at least.
    fn grow(&self, file: &std::fs::File, end: u64) -> Result<(), ErrorCode> {
        let size = file.metadata().map_err(|_| ErrorCode::Io)?.len();
        Quota::spend(&self.bytes, end.saturating_sub(size))
    }
}

type Store<'a> = StoreContextMut<'a, Guest>;
type Fd = Resource<Descriptor>;
type Done<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:filesystem/types@0.2.12")?;
    types.func_wrap_async(
        "[method]descriptor.write",
        |store: Store<'_>, call: (Fd, Vec<u8>, Filesize)| Box::new(write(store, call)),
    )?;
    types.func_wrap_async(
        "[method]descriptor.set-size",
        |store: Store<'_>, call: (Fd, Filesize)| Box::new(set_size(store, call)),
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |store: Store<'_>, (fd, offset): (Fd, Filesize)| stream(store, fd, Some(offset)),
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |store: Store<'_>, (fd,): (Fd,)| stream(store, fd, None),
    )?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |store: Store<'_>, call: (Fd, PathFlags, String, OpenFlags, DescriptorFlags)| {
            Box::new(open(store, call))
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.create-directory-at",
        |store: Store<'_>, call: (Fd, String)| Box::new(create_directory(store, call)),
    )?;
    // A link is an entry that may outlive what was counted for its file; nobody has asked for them yet.
    types.func_wrap(
        "[method]descriptor.link-at",
        |_: Store<'_>, _: (Fd, PathFlags, String, Fd, String)| denied(),
    )?;
    types.func_wrap(
        "[method]descriptor.symlink-at",
        |_: Store<'_>, _: (Fd, String, String)| denied(),
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn denied() -> Done<()> {
    Ok((Err(ErrorCode::NotPermitted),))
}

/// What wasmtime said, as the interface has it.
fn done<T>(result: Result<T, FsError>) -> Done<T> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

fn quota(store: &Store<'_>) -> Result<Quota, ErrorCode> {
    let scratch = store.data().scratch.as_ref();
    let quota = scratch.map(|scratch| scratch.quota.clone());
    quota.ok_or(ErrorCode::NotPermitted)
}

/// The file behind a descriptor, to ask for its size.
fn file(store: &mut Store<'_>, fd: &Fd) -> wasmtime::Result<Result<Arc<std::fs::File>, ErrorCode>> {
    let view = store.data_mut().filesystem();
    Ok(match view.table.get(fd)? {
        Descriptor::File(file) => Ok(file.file.clone()),
        Descriptor::Dir(_) => Err(ErrorCode::IsDirectory),
    })
}

/// Counts that a file is to have `end` bytes.
fn grow(store: &mut Store<'_>, fd: &Fd, end: u64) -> wasmtime::Result<Result<(), ErrorCode>> {
    let file = file(store, fd)?;
    Ok(file.and_then(|file| quota(store)?.grow(&file, end)))
}

async fn write(
    mut store: Store<'_>,
    (fd, bytes, offset): (Fd, Vec<u8>, Filesize),
) -> Done<Filesize> {
    charge(&mut store, FILE_FUEL + bytes.len())?;
    let end = offset.saturating_add(bytes.len() as u64);
    if let Err(refused) = grow(&mut store, &fd, end)? {
        return Ok((Err(refused),));
    }
    done(store.data_mut().filesystem().write(fd, bytes, offset).await)
}

async fn set_size(mut store: Store<'_>, (fd, size): (Fd, Filesize)) -> Done<()> {
    charge(&mut store, FILE_FUEL)?;
    if let Err(refused) = grow(&mut store, &fd, size)? {
        return Ok((Err(refused),));
    }
    done(store.data_mut().filesystem().set_size(fd, size).await)
}

async fn open(
    mut store: Store<'_>,
    (fd, follow, path, how, flags): (Fd, PathFlags, String, OpenFlags, DescriptorFlags),
) -> Done<Fd> {
    charge(&mut store, FILE_FUEL + path.len())?;
    if how.contains(OpenFlags::CREATE)
        && let Err(refused) = entry(&store)
    {
        return Ok((Err(refused),));
    }
    let mut view = store.data_mut().filesystem();
    done(view.open_at(fd, follow, path, how, flags).await)
}

async fn create_directory(mut store: Store<'_>, (fd, path): (Fd, String)) -> Done<()> {
    charge(&mut store, FILE_FUEL + path.len())?;
    if let Err(refused) = entry(&store) {
        return Ok((Err(refused),));
    }
    done(
        store
            .data_mut()
            .filesystem()
            .create_directory_at(fd, path)
            .await,
    )
}

fn entry(store: &Store<'_>) -> Result<(), ErrorCode> {
    Quota::spend(&quota(store)?.entries, 1)
}

fn stream(
    mut store: Store<'_>,
    fd: Fd,
    offset: Option<Filesize>,
) -> Done<Resource<DynOutputStream>> {
    charge(&mut store, FILE_FUEL)?;
    let file = match file(&mut store, &fd)? {
        Ok(file) => file,
        Err(refused) => return Ok((Err(refused),)),
    };
    let quota = match quota(&store) {
        Ok(quota) => quota,
        Err(refused) => return Ok((Err(refused),)),
    };
    let mut view = store.data_mut().filesystem();
    let opened = match offset {
        Some(offset) => view.write_via_stream(fd, offset),
        None => view.append_via_stream(fd),
    };
    let stream = match opened {
        Ok(opened) => view.table.delete(opened)?,
        Err(error) => return Ok((Err(error.downcast()?),)),
    };
    let counted: DynOutputStream = Box::new(Counted {
        stream,
        file,
        offset,
        quota,
    });
    Ok((Ok(view.table.push(counted)?),))
}

/// A stream into a file, which counts before it writes.
struct Counted {
    stream: DynOutputStream,
    file: Arc<std::fs::File>,
    /// Where the next write goes; none is behind the end.
    offset: Option<u64>,
    quota: Quota,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Counted {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Counted {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let length = bytes.len() as u64;
        let counted = match &mut self.offset {
            Some(offset) => {
                *offset = offset.saturating_add(length);
                self.quota.grow(&self.file, *offset)
            }
            // What is under way already may not be in the file's size yet.
            None => Quota::spend(&self.quota.bytes, length),
        };
        counted.map_err(|_| {
            let over = std::io::Error::from_raw_os_error(rustix::io::Errno::DQUOT.raw_os_error());
            StreamError::LastOperationFailed(over.into())
        })?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.stream.check_write()
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}
