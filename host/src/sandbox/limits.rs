//! What an instance may use.

use std::time::Duration;

use wasmtime::{ResourceLimiter, Result};

use crate::config::Tenant;
use crate::validate::OutputLimits;

/// All limits of a guest, each with its setting.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `GUEST_TIME_LIMIT`: from the start of instantiation to the return of the verdicts.
    pub time: Duration,
    /// `GUEST_FUEL`: about an instruction each; 0 for no such limit.
    pub fuel: u64,
    /// `GUEST_MEMORY`: in sum over all memories of the instance.
    pub memory_bytes: usize,
    /// `GUEST_STACK`.
    pub stack_bytes: usize,
    /// `GUEST_TABLE_ELEMENTS`: in sum over all tables. Real guests have a few thousand.
    pub table_elements: usize,
    /// `GUEST_INSTANCES`: core instances that a component may consist of.
    pub instances: u32,
    /// `GUEST_HANDLES`: resources held at the same time, and how often they may be lent in one call.
    pub handles: usize,
    /// `GUEST_LOG_SIZE`: kept of what is printed during a call.
    pub log_bytes: usize,
    /// `GUEST_COMPONENT`: a component's file.
    pub component_bytes: usize,
    /// `GUEST_COMPILE_TIME`: processor time of the process that compiles.
    pub compile_time: Duration,
    /// `GUEST_COMPILE_MEMORY`: address space of the process that compiles.
    pub compile_memory_bytes: u64,
    /// `GUEST_OUTPUT` and others: what verdicts may hold.
    pub bounds: OutputLimits,
}

/// Memories of one instance. A component made of several has one for each part.
pub(super) const MAX_MEMORIES: u32 = 8;
/// Tables of one instance.
pub(super) const MAX_TABLES: u32 = 64;

impl From<&Tenant> for Limits {
    fn from(tenant: &Tenant) -> Self {
        Self {
            time: tenant.guest_time_limit.0,
            fuel: tenant.guest_fuel,
            memory_bytes: tenant.guest_memory.bytes(),
            stack_bytes: tenant.guest_stack.bytes(),
            table_elements: tenant.guest_table_elements,
            instances: tenant.guest_instances,
            handles: tenant.guest_handles,
            log_bytes: tenant.guest_log_size.bytes(),
            component_bytes: tenant.guest_component.bytes(),
            compile_time: tenant.guest_compile_time.0,
            compile_memory_bytes: tenant.guest_compile_memory.0,
            bounds: OutputLimits {
                output_bytes: tenant.guest_output.bytes(),
                rows: tenant.guest_rows,
                string_bytes: tenant.guest_string.bytes(),
                json_depth: tenant.guest_json_depth,
                max_age_days: tenant.max_event_age.as_days(),
                max_ahead_days: tenant.max_event_ahead.as_days(),
            },
        }
    }
}

impl Limits {
    /// What an engine must have room for, for guests with either of these.
    pub(super) fn with_room_for(&self, other: &Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            table_elements: self.table_elements.max(other.table_elements),
            instances: self.instances.max(other.instances),
            ..*self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&Tenant::default())
    }
}

/// Counts what one instance uses.
///
/// wasmtime's own `StoreLimits` counts each memory alone; this sums them.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Limits,
    memory_bytes: usize,
    table_elements: usize,
    /// What was asked for last: a growth can fail after it was allowed, beyond the memory's own maximum.
    last_growth: usize,
}

/// The memory limit was reached. A type of its own, so that the trap can be told from others.
#[derive(Debug, thiserror::Error)]
#[error("out of memory")]
pub(super) struct OutOfMemory;

/// The limit of table elements was reached.
#[derive(Debug, thiserror::Error)]
#[error("too many table elements")]
pub(super) struct TooManyElements;

impl Meter {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, memory_bytes: 0, table_elements: 0, last_growth: 0 }
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        self.last_growth = desired.saturating_sub(current);
        self.memory_bytes = self.memory_bytes.saturating_add(self.last_growth);
        match self.memory_bytes > self.limits.memory_bytes {
            true => Err(OutOfMemory.into()),
            false => Ok(true),
        }
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        self.last_growth = desired.saturating_sub(current);
        self.table_elements = self.table_elements.saturating_add(self.last_growth);
        match self.table_elements > self.limits.table_elements {
            true => Err(TooManyElements.into()),
            false => Ok(true),
        }
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
        assert!(meter.memory_growing(0, 6, None).is_ok());
        assert!(meter.memory_growing(6, 9, Some(8)).is_ok(), "allowed, and not had");
        assert!(meter.memory_grow_failed(wasmtime::format_err!("the memory's own maximum")).is_ok());
        assert!(meter.memory_growing(0, 4, None).is_ok(), "a second memory, to the limit");
        let error = meter.memory_growing(4, 5, None).expect_err("beyond it");
        assert!(error.is::<OutOfMemory>());
        assert!(meter.table_growing(0, 6, None).is_ok());
        assert!(meter.table_growing(0, 4, None).is_ok(), "a second table, to the limit");
        assert!(meter.table_growing(4, 5, None).is_err(), "beyond it");
    }
}
