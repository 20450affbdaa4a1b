//! Asks the rules as the service does.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Error;
use super::fakes::Fakes;
use super::project::Project;
use crate::batch::Judged;
use crate::capabilities::{Effects, HostContext, Measured};
use crate::config::Statement;
use crate::judge::{self, Rules};
use sluicegate_verdicts::Entry;

/// Rules that were loaded, and how entries are put to them.
pub(super) struct Asker {
    pub(super) rules: Arc<dyn Rules>,
    max_deliveries: u64,
    statements: BTreeMap<String, Statement>,
    fakes: Fakes,
}

/// What came of a batch.
pub(super) struct Asked {
    /// In the order of the batch.
    pub(super) judged: Vec<Judged>,
    /// What would have been published and counted.
    pub(super) effects: Effects,
    pub(super) measured: Measured,
}

impl Asker {
    pub(super) fn new(project: &Project) -> Result<Self, Error> {
        Self::with_rules(project, Arc::new(project.load()?))
    }

    /// Compiles the rules, and also returns how many bytes of native code they have.
    pub(super) fn compiled(project: &Project) -> Result<(Self, u64), Error> {
        let guest = project.compile()?;
        let code_bytes = guest.code_bytes();
        Ok((Self::with_rules(project, Arc::new(guest))?, code_bytes))
    }

    /// Puts entries to other rules than those of the project, with its settings and fakes.
    pub(super) fn with_rules(project: &Project, rules: Arc<dyn Rules>) -> Result<Self, Error> {
        let tenant = &project.tenant;
        let fakes = Fakes::read(&project.tests(), &tenant.statements)?;
        let statements = tenant.statements.clone();
        Ok(Self { rules, max_deliveries: tenant.max_deliveries, statements, fakes })
    }

    /// Judges entries as one batch. Capabilities are answered by the fakes.
    pub(super) async fn ask(&self, mut entries: Vec<Entry>) -> Result<Asked, Error> {
        for entry in &mut entries {
            entry.deliveries = self.fakes.deliveries(entry.id);
        }
        let context = HostContext { lag: self.fakes.lag, ..HostContext::default() };
        let missing = Mutex::default();
        let serve = |requests| self.fakes.serve(&self.statements, &missing, requests);
        let (judgement, effects) =
            judge::ask(Arc::clone(&self.rules), self.max_deliveries, entries, context, serve).await?;
        match judgement {
            Ok(judgement) => Ok(Asked { judged: judgement.entries, effects, measured: judgement.measured }),
            Err(lost) => Err(Error::NoFake(missing.into_inner().unwrap_or_else(|| lost.to_string()))),
        }
    }
}
