//! Bounds what a guest may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Tenant;
use sluicegate_verdicts::validate::OutputLimits;

/// Holds all limits of a guest, each with the setting that it comes from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// `GUEST_TIME_LIMIT` bounds the processor time from the start of instantiation to the return of the verdicts.
    pub time: Duration,
    /// `GUEST_FUEL` bounds the fuel, of which an instruction takes about one. There is no such limit if it is 0.
    pub fuel: u64,
    /// `GUEST_MEMORY` bounds the bytes of all memories of the instance in sum.
    pub memory_bytes: usize,
    /// `GUEST_STACK` bounds the bytes of the stack.
    pub stack_bytes: usize,
    /// `GUEST_TABLE_ELEMENTS` bounds the elements of all tables in sum. Real guests have a few thousand.
    pub table_elements: usize,
    /// `GUEST_INSTANCES` bounds the core instances that a component may consist of.
    pub instances: u32,
    /// `GUEST_HANDLES` bounds the resources that are held at the same time, and how often they may be lent in one call.
    pub handles: usize,
    /// `GUEST_LOG_SIZE` bounds the bytes that are kept of what is printed to each stream during a call.
    pub log_bytes: usize,
    /// `GUEST_COMPONENT` bounds the bytes of a component's file.
    pub component_bytes: usize,
    /// `GUEST_COMPILE_TIME` bounds the processor time of the process that compiles.
    pub compile_time: Duration,
    /// `GUEST_COMPILE_MEMORY` bounds the address space of the process that compiles.
    pub compile_memory_bytes: u64,
    /// `GUEST_OUTPUT` and other settings bound what verdicts may hold.
    pub bounds: OutputLimits,
}

/// Bounds the memories of one instance. A component that is made of several has one for each part.
pub(super) const MAX_MEMORIES: u32 = 8;
/// Bounds the tables of one instance.
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

impl Default for Limits {
    fn default() -> Self {
        Self::from(&Tenant::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limits_of_verdicts_are_those_of_the_settings() {
        assert_eq!(Limits::default().bounds, OutputLimits::DEFAULT);
    }
}
