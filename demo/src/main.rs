//! Parses the command line.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluicegate_demo::command::{self, with_servers};

/// Shows Sluicegate on servers of its own.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the whole service on private servers: events, a swap of the rules in mid-flow, a ledger
    #[command(after_help = DEMO_HELP)]
    Demo,
    /// Run a command with private servers at REDIS_URL and POSTGRES_URL
    #[command(after_help = "A server that one of the two names already is used instead of a private one.")]
    Servers {
        /// The command
        command: OsString,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

const DEMO_HELP: &str = "Environment variables:
  DEMO_SECONDS            how long events are generated; 5 to 300 [default: 20]
  DEMO_SEED               the seed of the events, to have the same ones again
  REDIS_URL, POSTGRES_URL servers to use instead of private ones; the demo keeps to a stream and a
                          database of its own there, and removes both
The settings of `sluicegate run` that are not about servers, stream, group and rules work here too.";

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Demo => run(sluicegate_demo::run(), |_| 1),
        Command::Servers { command, arguments } => {
            run(with_servers(&command, &arguments), command::Error::exit_code)
        }
    }
}

fn run<E: std::error::Error>(
    work: impl Future<Output = Result<u8, E>>,
    code_of: impl Fn(&E) -> u8,
) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let (code, error) = match runtime.map(|runtime| runtime.block_on(work)) {
        Ok(Ok(code)) => return ExitCode::from(code),
        Ok(Err(error)) => (code_of(&error), error.to_string()),
        Err(error) => (1, format!("starting tokio: {error}")),
    };
    // Nobody may be there to read the error, and then `eprintln!` would end the program instead.
    let _ = writeln!(std::io::stderr(), "sluicegate-demo: {error}");
    ExitCode::from(code)
}
