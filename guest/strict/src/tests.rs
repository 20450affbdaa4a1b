use super::*;
use guest_rules::EntryId;

fn judge_json(event_type: &str, properties: &str) -> Verdict {
    let data = format!(
        r#"{{"event_id":"123e4567-e89b-12d3-a456-426614174000","event_type":"{event_type}",
            "user_id":"u1","timestamp":"2026-01-18T22:17:34Z"{properties}}}"#
    );
    judge(&Entry { id: EntryId { milliseconds: 1, sequence: 0 }, fields: vec![("data".to_owned(), data)] })
}

fn refusal(properties: &str) -> (String, String) {
    match judge_json("purchase", properties) {
        Verdict::Reject(violations) => {
            assert_eq!(violations.len(), 1, "{violations:?}");
            (violations[0].path.clone(), violations[0].code.clone())
        }
        other => panic!("{properties}: {other:?}"),
    }
}

#[test]
fn purchase_needs_an_amount_above_zero() {
    for (properties, code) in [
        ("", "missing"),
        (r#","properties":{}"#, "missing"),
        (r#","properties":{"amount":"9.99"}"#, "wrong_type"),
        (r#","properties":{"amount":null}"#, "wrong_type"),
        (r#","properties":{"amount":0}"#, "out_of_range"),
        (r#","properties":{"amount":-0.5}"#, "out_of_range"),
    ] {
        assert_eq!(refusal(properties), ("properties.amount".to_owned(), code.to_owned()), "{properties}");
    }
}

#[test]
fn sound_purchase_is_passed_on_untouched() {
    let Verdict::Accept(event) = judge_json("purchase", r#","properties":{"amount": 9.990}"#) else {
        panic!("refused");
    };
    assert_eq!(event.properties.as_deref(), Some(r#"{"amount": 9.990}"#));
}

#[test]
fn other_types_need_no_amount() {
    assert!(matches!(judge_json("click", ""), Verdict::Accept(_)));
}

#[test]
fn heartbeat_is_discarded() {
    assert_eq!(judge_json("heartbeat", ""), Verdict::Discard("heartbeat".to_owned()));
}

#[test]
fn default_rules_come_first() {
    assert!(matches!(judge_json("", ""), Verdict::Reject(_)));
}
