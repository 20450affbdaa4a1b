//! Handles the command line, logging and signals. It is the only place for `anyhow`.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use rustix::process::Signal;
use sluicegate::config::{self, Config, LogFormat, SETTINGS, Setting};
use sluicegate::reload::Reload;
use sluicegate::sandbox::{compile, worker};
use sluicegate::service;
use sluicegate::{author, dead_letters, doctor, rules, top};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Reads events from Redis Streams, lets a sandboxed WebAssembly component
/// judge them, stores them in TimescaleDB and acknowledges what is committed.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service
    #[command(after_help = settings_help())]
    Run {
        /// Settings file; without it, sluicegate.toml is read if it is there
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print all settings: a file to begin with, or a page of the manual
    Settings {
        /// As a table in Markdown
        #[arg(long)]
        markdown: bool,
    },
    /// Look at, replay and purge the entries that were not stored
    #[command(after_help = DEAD_LETTERS_HELP)]
    DeadLetters {
        /// Settings file; without it, sluicegate.toml is read if it is there
        #[arg(long, value_name = "FILE", global = true)]
        config: Option<PathBuf>,
        #[command(subcommand)]
        command: dead_letters::Command,
    },
    /// Try rules, deploy versions of them, see where each replica is, and go back
    #[command(after_help = rules::command::EXIT_CODES)]
    Rules {
        /// Settings file; without it, sluicegate.toml is read if it is there
        #[arg(long, value_name = "FILE", global = true)]
        config: Option<PathBuf>,
        #[command(subcommand)]
        command: RulesCommand,
    },
    /// Look at the settings and at both servers, change nothing, and say what to change
    #[command(after_help = DOCTOR_HELP)]
    Doctor {
        /// Settings file; without it, sluicegate.toml is read if it is there
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Count warnings as errors
        #[arg(long)]
        strict: bool,
    },
    /// Show what each tenant of running services does: rates, lag, latency, versions, and what is wrong
    #[command(after_help = TOP_HELP)]
    Top {
        #[command(flatten)]
        options: top::Options,
    },
    /// Compile a component for the service that started this
    #[command(name = compile::COMMAND, hide = true)]
    Compile { memory_bytes: u64, time_ms: u64, fuel: u64, stack_bytes: usize, code_bytes: u64 },
    /// Run the guest of a tenant for the service that started this
    #[command(name = worker::COMMAND, hide = true)]
    Worker { tenant: String },
}

#[derive(Subcommand)]
enum RulesCommand {
    #[command(flatten)]
    Author(author::Command),
    #[command(flatten)]
    Operator(rules::command::Command),
}

const DOCTOR_HELP: &str = "Exit codes:
  0  no errors; warnings and notes do not count
  1  errors, or with --strict warnings
  2  it could not look, or could not tell what it found: the command line is wrong, or a file that it names is missing";

const DEAD_LETTERS_HELP: &str = "Exit codes:
  0  it is done; that may be nothing, where no letter is meant
  1  it is not done, or not all of it, and standard error says why
  2  the command line is wrong, or a file that it names";

/// The command line is wrong, or a file that it names cannot be read.
const WRONG_INPUT: u8 = 2;

const TOP_HELP: &str = "Exit codes:
  0  somebody quit; of `--once`: every service has answered
  1  a service has not answered, or the terminal is at fault
  2  the command line is wrong, or a file that it names";

fn settings_help() -> String {
    let mut help = String::from(
        "Settings, as environment variables, in .env, or in lower case in sluicegate.toml, in this order:\n",
    );
    for Setting { name, default, meaning, .. } in SETTINGS.iter() {
        let default = default.as_ref().map_or(String::new(), |default| format!(" [default: {default}]"));
        help.push_str(&format!("  {name:<24} {meaning}{default}\n"));
    }
    help
}

pub(crate) fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config } => match run(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error:#}");
                code_of(&error)
            }
        },
        Command::DeadLetters { config, command } => {
            let work = async {
                let config = Config::load(config.as_deref())?;
                config.misspelt.iter().for_each(|name| say(&format!("sluicegate: {name}")));
                let (mut out, mut progress) = (std::io::stdout().lock(), std::io::stderr());
                dead_letters::run(command, &config, &mut out, &mut progress).await?;
                anyhow::Ok(ExitCode::SUCCESS)
            };
            tool(work)
        }
        Command::Rules { config, command: RulesCommand::Author(command) } => {
            start_logging(LogFormat::Text, PRINTS);
            let work = async {
                let mut out = std::io::BufWriter::new(std::io::stdout().lock());
                match author::run(command, config.as_deref(), &mut out).await {
                    Ok(code) => Ok(code),
                    Err(error) => {
                        say(&format!("sluicegate: {error}"));
                        Ok(error.exit_code())
                    }
                }
            };
            tool(work)
        }
        Command::Rules { config, command: RulesCommand::Operator(command) } => {
            let work = async {
                let config = Config::load(config.as_deref())?;
                config.misspelt.iter().for_each(|name| say(&format!("sluicegate: {name}")));
                let mut out = std::io::stdout().lock();
                match rules::command::run(command, &config, &mut out).await {
                    Ok(code) => Ok(code),
                    Err(error) => {
                        say(&format!("sluicegate: {error}"));
                        Ok(error.exit_code())
                    }
                }
            };
            tool(work)
        }
        Command::Top { options } => tool(async {
            // Not locked: a panic of another thread restores the terminal.
            let (mut out, mut errors) = (std::io::stdout(), std::io::stderr());
            match top::run(options, &mut out, &mut errors).await? {
                true => Ok(ExitCode::SUCCESS),
                false => Ok(ExitCode::FAILURE),
            }
        }),
        Command::Doctor { config, json, strict } => {
            examine(Config::load(config.as_deref()), doctor::How { json, strict })
        }
        Command::Settings { markdown } => {
            let text = if markdown { config::as_markdown() } else { config::as_toml() };
            // Whoever reads it may have read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        // The tenant's name is for whoever lists the processes.
        Command::Worker { .. } => match worker::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&error);
                ExitCode::FAILURE
            }
        },
        Command::Compile { memory_bytes, time_ms, fuel, stack_bytes, code_bytes } => {
            match compile::compile_as_child(memory_bytes, time_ms, fuel, stack_bytes, code_bytes) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    say(&error);
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// Returns the code that the program exits with: that of a wrong command line, if a file that it names is missing.
fn code_of(error: &anyhow::Error) -> ExitCode {
    let is_missing = error.downcast_ref().is_some_and(config::Error::is_of_command_line)
        || matches!(error.downcast_ref(), Some(top::Error::Client(error)) if error.is_of_command_line());
    if is_missing { ExitCode::from(WRONG_INPUT) } else { ExitCode::FAILURE }
}

/// Runs what is not the service: without a log, and with its error in one line.
fn tool(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    match runtime().and_then(|runtime| runtime.block_on(work)) {
        Ok(code) => code,
        // Its message names the cause already.
        Err(error) => {
            say(&format!("sluicegate: {error}"));
            code_of(&error)
        }
    }
}

/// Runs `doctor`, whose exit code tells what it found.
fn examine(config: Result<Config, config::Error>, how: doctor::How) -> ExitCode {
    let is_missing = config.as_ref().is_err_and(config::Error::is_of_command_line);
    let told = runtime().and_then(|runtime| {
        let mut out = std::io::stdout().lock();
        let told = runtime.block_on(doctor::run(config, how, &mut out));
        // Rules that are still being compiled are not waited for.
        runtime.shutdown_timeout(Duration::from_millis(200));
        Ok(told?)
    });
    match told {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) if is_missing => ExitCode::from(WRONG_INPUT),
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(&format!("sluicegate: {error}"));
            ExitCode::from(WRONG_INPUT)
        }
    }
}

/// Writes to standard error, if anybody is there to read it. `eprintln!` would end the program.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting tokio")
}

fn run(file: Option<PathBuf>) -> anyhow::Result<()> {
    let config = match Config::load(file.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            start_logging(LogFormat::Text, EVERYTHING);
            return Err(error.into());
        }
    };
    start_logging(config.log_format, EVERYTHING);
    config.misspelt.iter().for_each(|name| tracing::warn!("{name}"));
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let reload = Reload::new(file);
        tokio::spawn(follow_signals(shutdown.clone(), reload.asked())?);
        // Its message names the cause already.
        service::run(config, Some(reload), shutdown).await.map_err(|error| anyhow::anyhow!("{error}"))
    });
    // A guest may still be running, or being compiled, and is not waited for. The kernel ends the
    // process that compiles with the thread that started it, which ends with this process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// Calls the shutdown at SIGTERM and SIGINT, and has the settings read again at SIGHUP. On a terminal, SIGHUP says that the
/// terminal is gone, and is a shutdown. The signals are caught from here on.
fn follow_signals(
    shutdown: CancellationToken,
    reload: Arc<Notify>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
    // `nohup` has the signal ignored, and then it stays so.
    let mut hang_up = match is_ignored(Signal::HUP) {
        true => None,
        false => Some(signal(SignalKind::hangup()).context("catching SIGHUP")?),
    };
    let has_terminal = std::io::stderr().is_terminal();
    Ok(async move {
        let name = loop {
            let hang_up = async {
                match &mut hang_up {
                    Some(hang_up) => hang_up.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
                _ = hang_up => match has_terminal {
                    true => break "SIGHUP",
                    false => reload.notify_one(),
                },
            }
        };
        tracing::info!(signal = name, "shutting down: finishing the batches in flight");
        shutdown.cancel();
    })
}

/// Returns whether the signal was ignored before the program asked for it, as far as Linux tells.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // The bit of signal 1 is the first.
    mask.checked_shr(signal.as_raw().unsigned_abs().saturating_sub(1)).is_some_and(|mask| mask & 1 == 1)
}

/// What the service logs. PostgreSQL's notices at the migrations say that nothing was to be done.
const EVERYTHING: &str = "info,sqlx::postgres::notice=warn";
/// What tools log that try rules: what these print.
const PRINTS: &str = "error,sluicegate::sandbox::print_log=info";

/// Logs for people, with colours on a terminal only, or as JSON. `RUST_LOG` sets the level.
fn start_logging(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        // Whoever reads the log may be gone. To say so would panic, and end the task that logs.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
