//! A tenant in the list, what is wrong with it, and the order of the list.

use super::picture::ServicePicture;
use super::poll::TenantKey;
use crate::admin::TenantView;

/// A tenant of a service.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    pub(super) key: TenantKey,
    pub(super) service: &'a str,
    pub(super) tenant: &'a TenantView,
    pub(super) level: Level,
    pub(super) wrong: String,
    /// Whether the service does not answer any more.
    pub(super) is_old: bool,
}

/// How much is wrong, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// It makes no progress although it should.
    Trouble,
    /// It will, unless somebody looks after it.
    Warning,
    /// Something was wrong, or is as somebody wants it.
    Note,
    Well,
}

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Wrong,
    Name,
    Rate,
    Lag,
    Pending,
    Oldest,
    Latency,
}

impl Sort {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Wrong => Self::Name,
            Self::Name => Self::Rate,
            Self::Rate => Self::Lag,
            Self::Lag => Self::Pending,
            Self::Pending => Self::Oldest,
            Self::Oldest => Self::Latency,
            Self::Latency => Self::Wrong,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Wrong => "what is wrong",
            Self::Name => "name",
            Self::Rate => "rate",
            Self::Lag => "lag",
            Self::Pending => "pending",
            Self::Oldest => "oldest",
            Self::Latency => "p99",
        }
    }

    /// Returns the number to sort by, the greatest first, if it is a number and known.
    fn number(self, tenant: &TenantView) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "it only sorts")]
        let float = |count: u64| count as f64;
        match self {
            Self::Wrong | Self::Name => None,
            Self::Rate => Some(tenant.recent_rate),
            Self::Lag => tenant.lag.map(float),
            Self::Pending => tenant.pending.map(float),
            Self::Oldest => tenant.oldest_age_seconds,
            Self::Latency => tenant.commit_latency_p99_seconds,
        }
    }
}

/// Returns a row for each tenant of each service.
pub(super) fn rows(services: &[ServicePicture], sort: Sort) -> Vec<Row<'_>> {
    let row = |(service, picture)| move |tenant| Row::new(service, picture, tenant);
    let mut rows: Vec<Row<'_>> =
        services.iter().enumerate().flat_map(|it| it.1.tenants().iter().map(row(it))).collect();
    rows.sort_by(|a, b| {
        let by_level = match sort {
            Sort::Wrong => a.level.cmp(&b.level),
            _ => std::cmp::Ordering::Equal,
        };
        let unknown = f64::NEG_INFINITY;
        let number = |row: &Row<'_>| sort.number(row.tenant).unwrap_or(unknown);
        by_level
            .then_with(|| number(b).total_cmp(&number(a)))
            .then_with(|| a.tenant.name.cmp(&b.tenant.name))
            .then_with(|| a.key.service.cmp(&b.key.service))
    });
    rows
}

impl<'a> Row<'a> {
    fn new(service: usize, picture: &'a ServicePicture, tenant: &'a TenantView) -> Self {
        let (level, wrong) = wrong(tenant);
        Self {
            key: TenantKey { service, name: tenant.name.clone() },
            service: &picture.name,
            tenant,
            level,
            wrong,
            is_old: picture.failing.is_some(),
        }
    }
}

/// Says what is wrong with a tenant, the worst first.
fn wrong(tenant: &TenantView) -> (Level, String) {
    let mut found = Vec::new();
    if let Some(trouble) = &tenant.trouble {
        found.push((Level::Trouble, trouble.clone()));
    } else if tenant.state.starts_with("waiting") {
        found.push((Level::Warning, tenant.state.clone()));
    } else if tenant.state != "running" {
        found.push((Level::Note, tenant.state.clone()));
    }
    if let Some(reason) = &tenant.rules_refused {
        found.push((Level::Warning, format!("rules refused: {reason}")));
    }
    if tenant.lost > 0 {
        found.push((Level::Note, format!("{} entries were lost", tenant.lost)));
    }
    if !tenant.breaches.is_empty() {
        let kinds: Vec<String> =
            tenant.breaches.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        found.push((Level::Note, format!("breaches: {}", kinds.join(", "))));
    }
    let level = found.iter().map(|(level, _)| *level).min().unwrap_or(Level::Well);
    let texts: Vec<String> = found.into_iter().map(|(_, text)| text).collect();
    (level, texts.join("; "))
}
