//! Measures events per second, end to end, from a preloaded stream. `make bench` runs it.
//!
//! Three contenders do the same work, interleaved in one run, each in a process of its own and on a
//! database of its own:
//!
//! - (a) the service, as it is shipped
//! - (b) the same pipeline with the default rules as native code, to show what the sandbox costs
//! - (c) the database alone, fed with the same rows ready-made, to show what is possible
//!
//! Besides the events a second, it tells the time that an event takes of all processors, those of Redis and PostgreSQL
//! included.
//!
//! Then it is measured what a hundred slow watchers of the live tap cost the service, and the
//! transactions of a trickle of 27 events per second are counted. `BENCH_EVENTS` (300000) and
//! `BENCH_REPETITIONS` (5) change the size. `BENCH_ONLY=watchers` measures only those.

mod child;
mod load;
mod run;
mod watchers;

use std::process::ExitCode;

use run::{Bench, Contender, Outcome};
use watchers::WATCHERS;

const BATCH_SIZES: [usize; 2] = [100, 1_000];

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some(child::NATIVE) => child::native(),
        Some(child::DATABASE_ALONE) => child::database_alone(),
        // `cargo bench` passes `--bench`.
        _ => bench(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let events = number("BENCH_EVENTS", 300_000)?;
    let repetitions = number("BENCH_REPETITIONS", 5)?;
    let bench = Bench::start(events)?;
    if std::env::var("BENCH_ONLY").is_ok_and(|only| only == "watchers") {
        return watched(&bench, repetitions);
    }
    say(&format!(
        "{events} events a run, {repetitions} repetitions, medians; (a) service, (b) native rules, (c) database alone\n"
    ));
    say(
        "                                                                                                  machine's CPU µs/event\n",
    );
    say(
        "batch   (a) events/s   (b) events/s   (c) events/s    a/b    a/c   (a) memory  (a) CPU µs/event    (a)    (b)    b/a\n",
    );
    for batch_size in BATCH_SIZES {
        let mut rounds = Vec::new();
        for repetition in 0..repetitions {
            rounds.push(bench.round(batch_size, repetition)?);
        }
        say(&row(batch_size, &rounds));
    }
    watched(&bench, repetitions)?;
    say(&bench.trickle()?);
    Ok(())
}

/// Runs the service with watchers and without, in turns.
fn watched(bench: &Bench, repetitions: usize) -> anyhow::Result<()> {
    let [batch_size, _] = BATCH_SIZES;
    let mut rounds = Vec::new();
    for repetition in 0..repetitions {
        let round = bench.watched_round(batch_size, repetition)?;
        say(&watched_row(repetition, &[round]));
        rounds.push(round);
    }
    say(&watched_row(repetitions, &rounds));
    Ok(())
}

/// Formats the medians of pairs: without watchers and with them.
fn watched_row(count: usize, rounds: &[[Outcome; 2]]) -> String {
    let of = |value: &dyn Fn(&[Outcome; 2]) -> f64| median(rounds.iter().map(value).collect());
    format!(
        "{WATCHERS} slow watchers, {}: {:.0} events/s without, {:.0} with, {:.3}; {:.2} CPU µs/event without, {:.2} with, {:.3}; {:.1} MB without, {:.1} MB with\n",
        match rounds.len() {
            1 => format!("round {}", count + 1),
            _ => format!("medians of {count} rounds"),
        },
        of(&|[alone, _]| alone.events_a_second),
        of(&|[_, watched]| watched.events_a_second),
        of(&|[alone, watched]| watched.events_a_second / alone.events_a_second),
        of(&|[alone, _]| alone.cpu_micros_an_event),
        of(&|[_, watched]| watched.cpu_micros_an_event),
        of(&|[alone, watched]| watched.cpu_micros_an_event / alone.cpu_micros_an_event),
        of(&|[alone, _]| alone.memory_mb),
        of(&|[_, watched]| watched.memory_mb),
    )
}

/// Formats the medians of all rounds. A ratio is the median of the rounds' ratios, so that what
/// slows the machine for a while slows both sides of it.
fn row(batch_size: usize, rounds: &[[Outcome; 3]]) -> String {
    let of = |value: &dyn Fn(&[Outcome; 3]) -> f64| median(rounds.iter().map(value).collect());
    let rate = |contender: Contender| of(&|round| contender.of(round).events_a_second);
    let machine = |contender: Contender| of(&|round| contender.of(round).machine_micros_an_event);
    let ratio = |other: Contender| {
        of(&|round| Contender::Service.of(round).events_a_second / other.of(round).events_a_second)
    };
    format!(
        "{batch_size:>5} {:>14.0} {:>14.0} {:>14.0} {:>6.2} {:>6.2} {:>8.0} MB {:>17.1} {:>6.1} {:>6.1} {:>6.2}\n",
        rate(Contender::Service),
        rate(Contender::Native),
        rate(Contender::DatabaseAlone),
        ratio(Contender::Native),
        ratio(Contender::DatabaseAlone),
        of(&|round| Contender::Service.of(round).memory_mb),
        of(&|round| Contender::Service.of(round).cpu_micros_an_event),
        machine(Contender::Service),
        machine(Contender::Native),
        of(&|round| {
            let [service, native] = [Contender::Service, Contender::Native]
                .map(|contender| contender.of(round).machine_micros_an_event);
            native / service
        }),
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn number(variable: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(variable) {
        Err(_) => Ok(default),
        Ok(text) => text
            .parse()
            .ok()
            .filter(|number| (1..=10_000_000).contains(number))
            .ok_or_else(|| anyhow::anyhow!("{variable} is {text:?}; wanted 1 to 10000000")),
    }
}

/// Writes progress and results to standard output, without a buffer.
fn say(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // Whoever closed the pipe does not want to hear more.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
