//! Counts what the process does that is no tenant's.

use std::sync::atomic::{AtomicU64, Ordering};

use enum_map::{Enum, EnumMap};
use parking_lot::Mutex;

use super::Since;

/// What the process has done since the start.
#[derive(Debug, Default)]
pub(crate) struct ServiceCounters {
    since: Since,
    totals: Mutex<ServiceTotals>,
    /// This is counted on the way of a batch, which waits for nobody.
    lost_spans: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServiceTotals {
    /// How often the settings were read again and taken.
    pub(crate) reloads_in_force: u64,
    /// How often they were not taken, because of a mistake in them.
    pub(crate) reloads_refused: u64,
    /// Whether that is so of the last time.
    pub(crate) settings_are_refused: bool,
    /// What came of requests to collectors, for each signal that is sent.
    pub(crate) requests: EnumMap<Signal, Option<Requests>>,
    /// The spans that there was no room for, and those that no collector took.
    pub(crate) lost_spans: u64,
}

/// What is sent by OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(crate) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }
}

/// What came of requests to a collector.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Requests {
    pub(crate) taken: u64,
    pub(crate) failed: u64,
}

impl ServiceCounters {
    /// Counts settings that were read again.
    pub(crate) fn reloaded(&self, is_refused: bool) {
        let mut totals = self.totals.lock();
        match is_refused {
            true => totals.reloads_refused += 1,
            false => totals.reloads_in_force += 1,
        }
        totals.settings_are_refused = is_refused;
    }

    /// Notes that a signal is sent.
    pub(crate) fn sends(&self, signal: Signal) {
        self.totals.lock().requests[signal].get_or_insert_default();
    }

    /// Counts a request to a collector.
    pub(crate) fn requested(&self, signal: Signal, is_taken: bool) {
        let mut totals = self.totals.lock();
        let requests = totals.requests[signal].get_or_insert_default();
        match is_taken {
            true => requests.taken += 1,
            false => requests.failed += 1,
        }
    }

    /// Counts spans that no collector gets.
    pub(crate) fn lost_spans(&self, spans: u64) {
        self.lost_spans.fetch_add(spans, Ordering::Relaxed);
    }

    /// Returns all counts of this moment.
    pub(crate) fn now(&self) -> ServiceTotals {
        let lost_spans = self.lost_spans.load(Ordering::Relaxed);
        ServiceTotals { lost_spans, ..*self.totals.lock() }
    }

    /// Returns since when is counted.
    pub(crate) fn since(&self) -> Since {
        self.since
    }
}
