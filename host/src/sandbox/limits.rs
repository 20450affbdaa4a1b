//! What an instance may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Tenant;
use crate::validate::OutputLimits;

/// All limits of a guest, each with its setting.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// `GUEST_TIME_LIMIT`: processor time, from the start of instantiation to the return of the verdicts.
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
    /// `GUEST_LOG_SIZE`: kept of what is printed to each stream during a call.
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

impl Default for Limits {
    fn default() -> Self {
        Self::from(&Tenant::default())
    }
}
