//! Names what a component imports and exports of the contract.

use serde::{Deserialize, Serialize};

/// The world of `wit/` that a component belongs to. Manifests have its full name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum World {
    #[serde(rename = "sluicegate:guest/validator@0.1.0")]
    Validator,
    #[serde(rename = "sluicegate:guest/pipeline@0.1.0")]
    Pipeline,
    #[serde(rename = "sluicegate:guest/bytes-validator@0.1.0")]
    BytesValidator,
    #[serde(rename = "sluicegate:guest/bytes-pipeline@0.1.0")]
    BytesPipeline,
}

impl World {
    pub const ALL: [Self; 4] = [Self::Validator, Self::Pipeline, Self::BytesValidator, Self::BytesPipeline];

    pub(super) fn new(takes_bytes: bool, imports_capabilities: bool) -> Self {
        match (takes_bytes, imports_capabilities) {
            (false, false) => Self::Validator,
            (false, true) => Self::Pipeline,
            (true, false) => Self::BytesValidator,
            (true, true) => Self::BytesPipeline,
        }
    }

    /// Returns whether values are bytes for the component, and not text.
    pub fn takes_bytes(self) -> bool {
        matches!(self, Self::BytesValidator | Self::BytesPipeline)
    }

    /// Returns whether the component imports a capability. If not, no grant decides what it does.
    pub fn imports_capabilities(self) -> bool {
        matches!(self, Self::Pipeline | Self::BytesPipeline)
    }
}
