//! The command line: parse, set up logging, dispatch, exit code. A file per subcommand.

mod acl;
mod args;
mod bench;
mod build;
mod cache;
mod cancel;
mod check;
mod compile;
mod dead_letter;
mod demo;
mod dev;
mod doctor;
mod here;
mod inspect;
mod keygen;
mod new;
mod outcome;
mod passwd;
mod push;
mod reload;
mod report;
mod run;
mod schema;
mod serve;
mod submit;
mod test;
mod together;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::broker;
use crate::modules::{jail, shape};

/// It worked; for `run`, `submit` and `outcome`: the task succeeded; for `cancel`: it was canceled.
pub const OK: u8 = 0;
/// It failed: the message on stderr says why.
pub const FAILED: u8 = 1;
/// The arguments are wrong.
pub const USAGE: u8 = 2;
/// The task ended otherwise than `succeeded`; for `cancel`: otherwise than `canceled`; for `test`: otherwise than the
/// sample says.
pub const TASK_FAILED: u8 = 3;
/// No outcome came in time, or the waiting was interrupted.
pub const NO_OUTCOME: u8 = 4;

/// `doctor`: a finding to warn of, none that is fatal.
pub const WARNING_FINDING: u8 = 3;
/// `doctor`: a finding that is fatal.
pub const FATAL_FINDING: u8 = 4;

const EXIT_CODES: &str = "\
Exit codes:
  0  it worked; for `run`, `submit` and `outcome`: the task succeeded; for `cancel`: it was canceled
  1  it failed: the message on stderr says why
  2  the arguments are wrong
  3  `run`, `submit`, `outcome`: the task ended otherwise than succeeded; `cancel`: than canceled;
     `test`: than a sample says
  4  `submit`, `outcome`, `cancel`: no outcome came in time; `submit`: or it was interrupted
  `doctor`: 0 nothing to worry about, 1 nothing could be tried, 3 warnings, 4 something fatal

Environment:
  WASMQTT_CONFIG          a configuration file, as --config
  WASMQTT_SECTION_KEY     any key of the configuration, such as WASMQTT_RUNNER_CONCURRENCY
  WASMQTT_LOG             what to log, such as `debug` or `wasmqtt::mqtt=debug`";

/// Run anybody's code, from a message: a WebAssembly task runner over MQTT.
///
/// Somebody publishes a task on `task_queue`: the name of a WASM module and its input. A runner runs the
/// module once in a fresh sandbox, limited in fuel, memory and time, and publishes the outcome on
/// `task_completed`.
#[derive(Debug, Parser)]
#[command(name = "wasmqtt", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    New(new::New),
    Build(build::Build),
    Test(test::Test),
    Dev(dev::Dev),
    Serve(Box<serve::Serve>),
    Submit(Box<submit::Submit>),
    Cancel(cancel::Cancel),
    Outcome(outcome::Outcome),
    Push(push::Push),
    Keygen(keygen::Keygen),
    Sign(keygen::Sign),
    Run(run::Run),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
    DeadLetter(dead_letter::DeadLetters),
    Cache(cache::Cache),
    Check(check::Check),
    #[command(hide = true, name = jail::SUBCOMMAND)]
    Compile(compile::Compile),
    Doctor(doctor::Doctor),
    Acl(Box<acl::Acl>),
    Passwd(passwd::Passwd),
    Schema(schema::Schema),
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    // Where any of a huge page is used all of it is resident. Measured after 30 minutes of strangers' modules: 128 MiB with
    // them, of which 68 were nothing but zeros, and 58 without.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let cli = Cli::parse();
    shape::quiet();
    log_to_stderr(match cli.command {
        Command::Serve(_) => "info",
        // The client warns of every denial, which is what it is there to find.
        Command::Doctor(_) => "error",
        _ => "warn",
    });
    let done = match cli.command {
        Command::Demo(command) => command.run(),
        Command::New(command) => command.run(),
        Command::Build(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Dev(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Submit(command) => command.run(),
        Command::Cancel(command) => command.run(),
        Command::Outcome(command) => command.run(),
        Command::Push(command) => command.run(),
        Command::Keygen(command) => command.run(),
        Command::Sign(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::DeadLetter(command) => command.run(),
        Command::Cache(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Compile(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Acl(command) => command.run(),
        Command::Passwd(command) => command.run(),
        Command::Schema(command) => command.run(),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn log_to_stderr(default: &str) {
    let wanted = std::env::var("WASMQTT_LOG")
        .unwrap_or_else(|_| format!("{default},{}", broker::LOG_FILTER));
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        eprintln!("warning: WASMQTT_LOG {wanted:?} is not a filter ({error}), using {default:?}");
        EnvFilter::new(default)
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// A runtime for the network, on the thread that waits for it. What a runner does there is small, and hops between threads
/// cost more than they win; guests and the embedded broker have threads of their own.
fn network_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
