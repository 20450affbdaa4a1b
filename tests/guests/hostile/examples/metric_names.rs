//! Counts under names and labels that look like those of the service or of another tenant, and
//! that would break a line or a page.

use hostile::capabilities::metrics;

hostile::provoked!(|entry| {
    let labels = |labels: &[(&str, &str)]| -> Vec<(String, String)> {
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let value = "\"} 1\nsluicegate_entries_total{outcome=\"stored\"} 9\\";
    metrics::add("entries_total", &labels(&[("tenant", "other"), ("outcome", value)]), 1);
    metrics::observe("entries_total", &labels(&[("le", "0.5"), ("quantile", "0.5")]), -1.5);
    metrics::observe("batch_duration_seconds_bucket", &labels(&[("le", "0.5")]), 1e300);
    metrics::add("latencyMs_counter", &labels(&[("__name__", "up"), ("name", "up"), ("name", "down")]), 2);
    metrics::add("a name\n# TYPE up counter\nup 1", &[], 1);
    metrics::add("é", &labels(&[("\"", "x")]), 1);
    for label in 0..100 {
        metrics::add("labels", &[(format!("l{label}"), "\u{202e}\u{0}\u{7}".repeat(12))], 1);
    }
    hostile::judge(entry)
});
