//! What became of a task: exactly one terminal outcome per id.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::task::tenant::TenantId;
use crate::task::{Digest, Reply, Shape, Task, TaskId};

/// The terminal state of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The task's id.
    pub id: TaskId,
    /// The task's tenant: decides the topic, does not travel in the payload.
    pub tenant: TenantId,
    /// How it ended.
    pub status: Status,
    /// The module reference as the producer wrote it; absent for bytes that are no task.
    pub module: Option<String>,
    /// The SHA-256 of the bytes that ran; none when it ran none.
    pub module_digest: Option<Digest>,
    /// Which attempt this is the outcome of, counted from 1; 0 when it never started.
    pub attempt: u32,
    /// The attempts before the one that this is the outcome of, oldest first.
    pub attempts: Vec<Attempt>,
    /// What the guest returned.
    pub output: Option<Output>,
    /// Why it did not succeed.
    pub error: Option<TaskError>,
    /// What the run used.
    pub usage: Usage,
    /// The runner's name.
    pub runner: String,
    /// When the guest started; absent when it never did.
    pub started_at: Option<SystemTime>,
    /// When the outcome was settled.
    pub finished_at: SystemTime,
    /// The task's labels.
    pub labels: BTreeMap<String, String>,
    /// Where the outcome goes besides `task_completed`.
    pub reply: Reply,
    /// How the task travelled, which is how its outcome travels.
    pub shape: Shape,
}

impl Outcome {
    /// The outcome of a task that ends here, to be filled in with what the run left.
    pub fn of(
        task: &Task,
        status: Status,
        error: Option<TaskError>,
        runner: &str,
        now: SystemTime,
    ) -> Outcome {
        Outcome {
            id: task.id.clone(),
            tenant: task.tenant.clone(),
            status,
            module: Some(task.module.to_string()),
            module_digest: None,
            attempt: 0,
            attempts: Vec::new(),
            output: None,
            error,
            usage: Usage::default(),
            runner: runner.to_owned(),
            started_at: None,
            finished_at: now,
            labels: task.labels.clone(),
            reply: task.reply.clone(),
            shape: task.shape,
        }
    }
}

/// An attempt that failed and was followed by another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counted from 1.
    pub attempt: u32,
    /// When it failed.
    pub failed_at: SystemTime,
    /// The error code's word.
    pub code: String,
    /// The error's message.
    pub message: String,
}

/// What a guest returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The bytes.
    pub data: Bytes,
    /// Their media type, when the guest named one.
    pub content_type: Option<String>,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The guest returned output.
    Succeeded,
    /// It ran and ended badly, or could not be run: see the error's code.
    Failed,
    /// Its deadline passed.
    TimedOut,
    /// It never ran.
    Rejected,
    /// By `task_control`.
    Canceled,
    /// Too old before it could start.
    Expired,
}

impl Status {
    /// All of them.
    pub const ALL: &[Status] = &[
        Status::Succeeded,
        Status::Failed,
        Status::TimedOut,
        Status::Rejected,
        Status::Canceled,
        Status::Expired,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::TimedOut => "timed_out",
            Status::Rejected => "rejected",
            Status::Canceled => "canceled",
            Status::Expired => "expired",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a task did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError {
    /// For a program.
    pub code: ErrorCode,
    /// For a person: names the thing, the limit and the value.
    pub message: String,
    /// The wasm frames of a trap, innermost first; empty otherwise.
    pub backtrace: Vec<String>,
    /// What the guest says of another attempt; only for `guest_error`.
    pub retry: Option<GuestRetry>,
}

/// What a guest's own error says of another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestRetry {
    /// Never: the input is wrong.
    Never,
    /// Not before this many milliseconds.
    After(u64),
    /// As the task's own policy has it.
    ByPolicy,
}

impl TaskError {
    /// An error without a backtrace.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> TaskError {
        TaskError {
            code,
            message: message.into(),
            backtrace: Vec::new(),
            retry: None,
        }
    }

    /// The status of a task that ends with this error.
    pub fn status(&self) -> Status {
        self.code.status()
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

macro_rules! error_codes {
    ($( $(#[$doc:meta])* $variant:ident = $word:literal, $status:ident; )*) => {
        /// Why, for a program. The words are public surface.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $( $(#[$doc])* $variant, )* }

        impl ErrorCode {
            /// All of them, in the order of CONTRACT's table.
            pub const ALL: &[ErrorCode] = &[$( ErrorCode::$variant, )*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $( ErrorCode::$variant => $word, )* }
            }

            /// The status of a task that ends with this code.
            pub fn status(self) -> Status {
                match self { $( ErrorCode::$variant => Status::$status, )* }
            }
        }
    };
}

error_codes! {
    /// The bytes are no task, or a field of it is wrong.
    InvalidTask = "invalid_task", Rejected;
    /// The task asks for something that this runner does not do.
    Unsupported = "unsupported", Rejected;
    /// The tenant may not do that.
    TenantDenied = "tenant_denied", Rejected;
    /// A limit above its ceiling.
    LimitDenied = "limit_denied", Rejected;
    /// A capability that the tenant was not granted.
    CapabilityDenied = "capability_denied", Rejected;
    /// The module imports something that nobody granted.
    ImportDenied = "import_denied", Rejected;
    /// No module of that name.
    ModuleNotFound = "module_not_found", Rejected;
    /// The bytes are no module that can run here.
    ModuleInvalid = "module_invalid", Rejected;
    /// Compiling it would cost too much.
    ModuleTooCostly = "module_too_costly", Rejected;
    /// The bytes are not the pinned ones.
    DigestMismatch = "digest_mismatch", Rejected;
    /// The module's signature is missing or wrong.
    SignatureInvalid = "signature_invalid", Rejected;
    /// The tenant is over its rate or budget.
    QuotaExceeded = "quota_exceeded", Rejected;
    /// The module's source does not answer.
    ModuleUnavailable = "module_unavailable", Rejected;
    /// The runner stopped before the task could run.
    RunnerShutdown = "runner_shutdown", Rejected;
    /// A fault of the runner's own.
    Internal = "internal", Failed;
    /// The guest used all its fuel.
    FuelExhausted = "fuel_exhausted", Failed;
    /// The guest wanted more memory or table space than it may have.
    MemoryExceeded = "memory_exceeded", Failed;
    /// The guest's calls nest too deep.
    StackOverflow = "stack_overflow", Failed;
    /// The output is longer than it may be.
    OutputTooLarge = "output_too_large", Failed;
    /// The guest trapped.
    Trap = "trap", Failed;
    /// A command ended with an exit code other than 0.
    ExitNonzero = "exit_nonzero", Failed;
    /// The deadline passed while the guest ran.
    DeadlineExceeded = "deadline_exceeded", TimedOut;
    /// The guest said so.
    GuestError = "guest_error", Failed;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a run used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Units of wasmtime's fuel. wasmtime loses some count when the hardware traps (a division by zero):
    /// then this is a lower bound.
    pub fuel: u64,
    /// The most bytes of linear memory at one time, summed over memories.
    pub peak_memory_bytes: u64,
    /// Milliseconds from taking the task off the wire to the start of the guest.
    pub queued_ms: f64,
    /// Milliseconds from the start of the guest to its end.
    pub run_ms: f64,
    /// Milliseconds of CPU time that the guest's thread spent on it.
    pub cpu_ms: f64,
    /// Where the compiled module came from.
    pub module_cache: Option<CacheHit>,
}

/// Where a compiled module came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheHit {
    /// It was in memory.
    Memory,
    /// An artifact in the cache folder.
    Disk,
    /// It was compiled for this task, or for one that asked at the same moment.
    Compiled,
}

impl CacheHit {
    /// All of them.
    pub const ALL: &[CacheHit] = &[CacheHit::Memory, CacheHit::Disk, CacheHit::Compiled];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            CacheHit::Memory => "memory",
            CacheHit::Disk => "disk",
            CacheHit::Compiled => "compiled",
        }
    }
}
