//! Asks the rules as the service does.

use std::sync::Arc;

use super::Error;
use super::project::Project;
use crate::batch::{Entry, Judged};
use crate::capabilities::HostContext;
use crate::judge::{self, Rules};

/// Rules that were loaded, and how entries are put to them.
pub(super) struct Asker {
    rules: Arc<dyn Rules>,
    max_deliveries: u64,
}

impl Asker {
    pub(super) fn new(project: &Project) -> Result<Self, Error> {
        let rules: Arc<dyn Rules> = Arc::new(project.load()?);
        if rules.wants_transaction() {
            return Err(Error::NoServer);
        }
        Ok(Self { rules, max_deliveries: project.tenant.max_deliveries })
    }

    /// Judges entries as one batch, and returns them in their order.
    pub(super) async fn ask(&self, entries: Vec<Entry>) -> Result<Vec<Judged>, Error> {
        let (rules, context) = (Arc::clone(&self.rules), HostContext::default());
        let nobody = |_| std::future::ready(());
        let (judgement, _) = judge::ask(rules, self.max_deliveries, entries, context, nobody).await?;
        Ok(judgement.map_err(|_| Error::NoServer)?.entries)
    }
}
