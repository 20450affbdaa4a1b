//! What an instance may use.

use std::time::Duration;

use wasmtime::{ResourceLimiter, Result};

/// The limits of one call.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the start of instantiation to the return of the verdicts.
    pub time: Duration,
    /// In sum over all memories of the instance.
    pub memory_bytes: usize,
}

/// Elements of all tables together. Function tables of real guests have a few thousand.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Counts what one instance uses.
///
/// wasmtime's own `StoreLimits` counts each memory alone; this sums them.
#[derive(Debug)]
pub(super) struct Meter {
    memory_bytes_max: usize,
    memory_bytes: usize,
    table_elements: usize,
}

/// The memory limit was reached. A type of its own, so that the trap can be told from others.
#[derive(Debug, thiserror::Error)]
#[error("out of memory")]
pub(super) struct OutOfMemory;

impl Meter {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { memory_bytes_max: limits.memory_bytes, memory_bytes: 0, table_elements: 0 }
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        // Counted as if the growth always succeeded: at worst too strict.
        self.memory_bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        match self.memory_bytes > self.memory_bytes_max {
            true => Err(OutOfMemory.into()),
            false => Ok(true),
        }
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        self.table_elements = self.table_elements.saturating_add(desired.saturating_sub(current));
        Ok(self.table_elements <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_summed() {
        let mut meter = Meter::new(&Limits { time: Duration::ZERO, memory_bytes: 10 });
        assert!(meter.memory_growing(0, 6, None).is_ok());
        assert!(meter.memory_growing(0, 4, None).is_ok(), "a second memory, to the limit");
        let error = meter.memory_growing(4, 5, None).expect_err("beyond it");
        assert!(error.is::<OutOfMemory>());
    }
}
