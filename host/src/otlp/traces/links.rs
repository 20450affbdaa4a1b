//! Reads where a producer says that an entry comes from: the header `traceparent` of the W3C, as a field.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use sluicegate_verdicts::Entry;

/// The most links that a batch has.
pub(super) const MAX_LINKS: u32 = 32;

/// The name of the field.
const FIELD: &[u8] = b"traceparent";

/// Returns the spans that the entries come from, as many as a batch may have.
pub(super) fn of_batch(entries: &[Entry]) -> impl Iterator<Item = SpanContext> {
    let parents = entries.iter().filter_map(|entry| {
        let mut values = entry.fields.iter().flatten().filter(|(name, _)| name == FIELD);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => parse(value),
            // Of two, nobody knows which one holds.
            _ => None,
        }
    });
    parents.take(usize::try_from(MAX_LINKS).unwrap_or(0))
}

/// Reads `00-{trace}-{span}-{flags}`, in lower case. Later versions may have more after that.
fn parse(value: &[u8]) -> Option<SpanContext> {
    let value = std::str::from_utf8(value).ok()?;
    let (known, rest) = value.split_at_checked(55)?;
    let parts: Vec<&str> = known.split('-').collect();
    let &[version, trace, span, flags] = parts.as_slice() else { return None };
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !(is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2)) {
        return None;
    }
    if version == "ff" || (version == "00" && !rest.is_empty()) || !(rest.is_empty() || rest.starts_with('-'))
    {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags & TraceFlags::SAMPLED, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_verdicts::EntryId;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_a_valid_parent_is_linked() {
        let context = parse(GOOD.as_bytes()).expect("a parent");
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled() && context.is_remote());
        assert!(parse(GOOD.replacen("00-", "cc-", 1).as_bytes()).is_some(), "a later version");
        assert!(parse(format!("{}-more", GOOD.replacen("00-", "cc-", 1)).as_bytes()).is_some());
        for bad in [
            String::new(),
            GOOD.to_uppercase(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-more"),
            format!("{GOOD} "),
            GOOD.replacen("00-", "ff-", 1),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD.replace("4b", "ü"),
        ] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(parse(b"\xff\xfe").is_none());
    }

    #[test]
    fn a_batch_has_so_many_links_at_most() {
        let entry = |value: &str| Entry {
            id: EntryId::ZERO,
            fields: Some(vec![(b"data".to_vec(), b"{}".to_vec()), (FIELD.to_vec(), value.into())]),
            deliveries: 1,
        };
        let deleted = Entry { id: EntryId::ZERO, fields: None, deliveries: 1 };
        let mut twice = entry(GOOD);
        twice.fields.iter_mut().for_each(|fields| fields.extend_from_within(..));
        assert_eq!(of_batch(&[deleted, entry("bad"), twice, entry(GOOD)]).count(), 1);
        assert_eq!(of_batch(&vec![entry(GOOD); 100]).count(), 32);
    }
}
