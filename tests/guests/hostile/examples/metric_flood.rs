//! Counts under twenty thousand labels, and under names that are too long. The host cuts this to
//! the samples that a batch may take, and to the series that a tenant may have.

use hostile::capabilities::metrics;

hostile::provoked!(|entry| {
    metrics::add(&"x".repeat(1_000_000), &[], 1);
    metrics::observe("not_a_number", &[], f64::NAN);
    for i in 0..hostile::amount(entry, 20_000) {
        metrics::add("flood", &[("i".to_owned(), i.to_string())], 1);
    }
    hostile::judge(entry)
});
