//! Makes the default rules of [`sluicegate_kit`] a component, with nothing added: the default guest.

sluicegate_kit::export!(sluicegate_kit::DefaultRules);
