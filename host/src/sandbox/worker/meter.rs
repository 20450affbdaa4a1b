//! Counts what one instance uses of memory and tables.

use wasmtime::{ResourceLimiter, Result};

use crate::sandbox::Limits;
use crate::sandbox::limits::{MAX_MEMORIES, MAX_TABLES};

/// Counts what one instance uses.
///
/// wasmtime's own `StoreLimits` counts each memory alone; this sums them. A growth beyond a limit fails as the
/// specification says, and the guest goes on if it can do without.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Limits,
    memory_bytes: usize,
    table_elements: usize,
    /// Says how large the last growth was, if it was allowed: it can still fail, beyond the memory's own maximum.
    last_growth: usize,
    /// Says what was denied last.
    pub(super) denied: Option<Denied>,
}

/// Names a limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Memory,
    Elements,
}

impl Meter {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, memory_bytes: 0, table_elements: 0, last_growth: 0, denied: None }
    }

    /// Returns the bytes of all memories in sum: they never become fewer.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        self.last_growth = desired.saturating_sub(current);
        let wanted = self.memory_bytes.saturating_add(self.last_growth);
        if wanted > self.limits.memory_bytes {
            (self.last_growth, self.denied) = (0, Some(Denied::Memory));
            return Ok(false);
        }
        self.memory_bytes = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        self.last_growth = desired.saturating_sub(current);
        let wanted = self.table_elements.saturating_add(self.last_growth);
        if wanted > self.limits.table_elements {
            (self.last_growth, self.denied) = (0, Some(Denied::Elements));
            return Ok(false);
        }
        self.table_elements = wanted;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> Result<()> {
        self.memory_bytes = self.memory_bytes.saturating_sub(std::mem::take(&mut self.last_growth));
        Ok(())
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> Result<()> {
        self.table_elements = self.table_elements.saturating_sub(std::mem::take(&mut self.last_growth));
        Ok(())
    }

    fn instances(&self) -> usize {
        usize::try_from(self.limits.instances).unwrap_or(usize::MAX)
    }

    fn tables(&self) -> usize {
        usize::try_from(MAX_TABLES).unwrap_or(usize::MAX)
    }

    fn memories(&self) -> usize {
        usize::try_from(MAX_MEMORIES).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_are_summed() {
        let mut meter = Meter::new(Limits { memory_bytes: 10, table_elements: 10, ..Limits::default() });
        let mut grows = |current, desired| meter.memory_growing(current, desired, None).expect("no trap");
        assert!(grows(0, 6));
        assert!(grows(6, 9), "allowed, and not had");
        meter.memory_grow_failed(wasmtime::format_err!("the memory's own maximum")).expect("no trap");
        let mut grows = |current, desired| meter.memory_growing(current, desired, None).expect("no trap");
        assert!(grows(0, 4), "a second memory, to the limit");
        assert!(!grows(4, 5), "beyond it");
        assert!(!grows(4, 5), "what was denied does not count");
        assert_eq!(meter.denied, Some(Denied::Memory));
        let mut grows = |current, desired| meter.table_growing(current, desired, None).expect("no trap");
        assert!(grows(0, 6));
        assert!(grows(0, 4), "a second table, to the limit");
        assert!(!grows(4, 5), "beyond it");
        assert_eq!(meter.denied, Some(Denied::Elements));
    }
}
