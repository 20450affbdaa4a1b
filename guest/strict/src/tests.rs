use super::*;

fn judge(event_type: &str, properties: &str) -> Judged {
    let data = format!(
        r#"{{"event_id":"123e4567-e89b-12d3-a456-426614174000","event_type":"{event_type}",
            "user_id":"u1","timestamp":"2026-01-18T22:17:34Z"{properties}}}"#
    );
    MyRules.judge(&Entry::of(&[("data", &data)]))
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
        let wrong = judge("purchase", properties).unwrap_err();
        let found: Vec<_> = wrong.iter().map(|one| (one.path.as_str(), one.code.as_str())).collect();
        assert_eq!(found, [("properties.amount", code)], "{properties}");
    }
}

#[test]
fn sound_purchase_is_passed_on_untouched() {
    let Ok(Verdict::Accept(event)) = judge("purchase", r#","properties":{"amount": 9.990}"#) else {
        panic!("refused");
    };
    assert_eq!(event.properties.as_deref(), Some(r#"{"amount": 9.990}"#));
}

#[test]
fn other_types_need_no_amount() {
    assert!(matches!(judge("click", ""), Ok(Verdict::Accept(_))));
}

#[test]
fn heartbeat_is_discarded() {
    assert_eq!(judge("heartbeat", ""), Ok(Verdict::discard("heartbeat")));
}

#[test]
fn default_rules_come_first() {
    assert!(judge("", "").is_err());
}
