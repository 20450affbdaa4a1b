//! Returns properties that are a million levels deep. GUEST_JSON_DEPTH stops it.

hostile::provoked!(|entry| {
    let inner = hostile::amount(entry, 1_000_000) - 1;
    hostile::tell(entry, format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner)))
});
