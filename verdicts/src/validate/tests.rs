//! Tests verdicts of all kinds.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Makes text of all kinds. The kinds that matter come more often.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<String>(),
        1 => Just("a\0b".to_owned()),
        1 => (900..1_200_usize, prop_oneof!["x", "é", "\0", "\u{1f980}"]).prop_map(|(n, c)| c.repeat(n)),
    ]
}

fn any_id() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<u128>().prop_map(|id| Uuid::from_u128(id).to_string()),
        1 => any_text(),
    ]
}

/// Makes JSON, what is nearly JSON, and what is not.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<f64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| serde_json::Value::String(text).to_string()),
        Just(r#""\u0000""#.to_owned()),
        Just(r#""\ud800""#.to_owned()),
        Just("1e400".to_owned()),
        Just("null".to_owned()),
        ".{0,5}",
    ];
    let value = leaf.prop_recursive(4, 20, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            vec(inner, 0..3).prop_map(|items| {
                let pairs: Vec<String> = items.iter().map(|item| format!("\"k\":{item}")).collect();
                format!("{{{}}}", pairs.join(","))
            }),
        ]
    });
    prop_oneof![
        6 => value.prop_map(|value| format!("{{\"a\":{value}}}")),
        1 => any_text(),
        1 => (1..400_usize).prop_map(|n| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n))),
    ]
}

fn any_time() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        (MIN_TIME_MICROS - 2..MIN_TIME_MICROS + 2),
        (MAX_TIME_MICROS - 2..MAX_TIME_MICROS + 2),
        (-10_i64..10),
    ]
}

fn any_event() -> impl Strategy<Value = UncheckedEvent> {
    (any_id(), any_time(), any_text(), any_text(), proptest::option::of(any_json())).prop_map(
        |(event_id, time, event_type, user_id, properties)| UncheckedEvent {
            event_id,
            time,
            event_type,
            user_id,
            properties,
        },
    )
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let violation = (any_text(), any_text(), any_text()).prop_map(|(path, code, message)| Violation {
        path,
        code,
        message,
    });
    prop_oneof![
        4 => any_event().prop_map(Verdict::Accept),
        2 => vec(any_event(), 0..4).prop_map(Verdict::Expand),
        1 => (any_event(), 990..1_010_usize).prop_map(|(event, n)| Verdict::Expand(vec![event; n])),
        2 => vec(violation, 0..4).prop_map(Verdict::Reject),
        1 => any_text().prop_map(Verdict::Discard),
    ]
}

/// Returns limits within which anything is that PostgreSQL can hold.
fn bounds() -> OutputLimits {
    OutputLimits { max_age_days: 100_000_000, max_ahead_days: 100_000_000, ..OutputLimits::DEFAULT }
}

#[test]
fn nothing_is_kept_of_what_is_cut() {
    for text in
        ["x".repeat(10 << 20), "\0".repeat(10 << 20), "é".repeat(5 << 20), String::with_capacity(10 << 20)]
    {
        let kept = cut(text);
        assert!(kept.len() <= MAX_TEXT_BYTES && kept.capacity() <= 2 * MAX_TEXT_BYTES, "{}", kept.capacity());
    }
    let violation = || violation("", "code", String::new());
    let verdict = Verdict::Reject((0..100_000).map(|_| violation()).collect());
    let Outcome::DeadLetter(_, violations) = validate(verdict, &bounds(), Utc::now()) else {
        panic!("rejected")
    };
    assert_eq!((violations.len(), violations.capacity()), (MAX_VIOLATIONS, MAX_VIOLATIONS));
}

fn is_cut(text: &str) -> bool {
    text.len() <= MAX_TEXT_BYTES && !text.contains('\0')
}

fn is_storable(event: &Event) -> bool {
    let micros = event.time.timestamp_micros();
    let properties = event.properties.as_deref().unwrap_or("{}");
    !event.event_type.contains('\0')
        && !event.user_id.contains('\0')
        && (MIN_TIME_MICROS..=MAX_TIME_MICROS).contains(&micros)
        && serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(properties).is_ok()
        && !properties.contains(r"\u0000")
}

proptest! {
    /// `tests/cases/validation.rs` shows that PostgreSQL agrees.
    #[test]
    fn any_verdict_has_a_fate_within_bounds(verdict in any_verdict()) {
        match validate(verdict.clone(), &bounds(), Utc::now()) {
            Outcome::Store(events) => {
                let claims = match verdict {
                    Verdict::Accept(_) => 1,
                    Verdict::Expand(claims) => claims.len(),
                    other => panic!("{other:?} stores nothing"),
                };
                prop_assert_eq!(events.as_slice().len(), claims, "all or none");
                prop_assert!(events.as_slice().iter().all(is_storable), "{events:?}");
            }
            Outcome::DeadLetter(reason, violations) => {
                prop_assert_eq!(
                    reason == Reason::Rejected,
                    matches!(&verdict, Verdict::Reject(violations) if !violations.is_empty())
                );
                prop_assert!((1..=MAX_VIOLATIONS).contains(&violations.len()));
                for Violation { path, code, message } in &violations {
                    prop_assert!(is_cut(path) && is_cut(code) && is_cut(message), "{violations:?}");
                }
            }
            Outcome::Discard(reason) => prop_assert!(is_cut(&reason) && matches!(verdict, Verdict::Discard(_))),
        }
    }
}

#[test]
fn the_limits_are_exact() {
    let event = UncheckedEvent {
        event_id: Uuid::nil().to_string(),
        time: MIN_TIME_MICROS,
        event_type: String::new(),
        user_id: String::new(),
        properties: None,
    };
    let (bounds, now) = (bounds(), Utc::now());
    let passes = |event: &UncheckedEvent, bounds| {
        matches!(validate(Verdict::Accept(event.clone()), &bounds, now), Outcome::Store(_))
    };
    let is_stored = |event: &UncheckedEvent| passes(event, bounds);
    assert!(is_stored(&event));
    assert!(is_stored(&UncheckedEvent { time: MAX_TIME_MICROS, ..event.clone() }));
    assert!(!is_stored(&UncheckedEvent { time: MIN_TIME_MICROS - 1, ..event.clone() }));
    assert!(!is_stored(&UncheckedEvent { time: MAX_TIME_MICROS + 1, ..event.clone() }));
    let deep = |n: usize| Some(format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n)));
    assert!(is_stored(&UncheckedEvent { properties: deep(126), ..event.clone() }), "127 levels");
    assert!(!is_stored(&UncheckedEvent { properties: deep(127), ..event.clone() }), "128 levels");
    let nth = |i: u128| UncheckedEvent { event_id: Uuid::from_u128(i).to_string(), ..event.clone() };
    let expanded = |n: u128| {
        matches!(validate(Verdict::Expand((0..n).map(nth).collect()), &bounds, now), Outcome::Store(_))
    };
    assert_eq!([0, 1, 1_000, 1_001].map(expanded), [false, true, true, false]);
    let other = UncheckedEvent { user_id: "another".to_owned(), ..nth(3) };
    let Outcome::DeadLetter(Reason::BadVerdict, violations) =
        validate(Verdict::Expand(vec![nth(3), nth(4), other]), &bounds, now)
    else {
        panic!("two rows of one key");
    };
    assert_eq!((violations[0].path.as_str(), violations[0].code.as_str()), ("[2].event-id", "repeated_key"));

    let bounds = OutputLimits { string_bytes: 10, json_depth: 3, ..bounds };
    let with = |event_type: &str, properties: &str| {
        let properties = Some(properties.to_owned());
        passes(&UncheckedEvent { event_type: event_type.to_owned(), properties, ..event.clone() }, bounds)
    };
    assert!(with("1234567890", "{\"a\":[[]]}"), "at both limits");
    assert!(!with("12345678901", "{}") && !with("", "{\"a\":12345}"), "a byte more");
    let bounds = OutputLimits { string_bytes: 100, ..bounds };
    let deeper = UncheckedEvent { properties: deep(3), ..event.clone() };
    assert!(!passes(&deeper, bounds), "a level more");
}
#[test]
fn events_lie_in_a_window_and_those_of_an_entry_in_few_weeks() {
    const DAY_MICROS: i64 = 86_400_000_000;
    let now = Utc::now();
    let bounds = OutputLimits { max_age_days: 10, max_ahead_days: 2, ..OutputLimits::DEFAULT };
    let event = |micros: i64| UncheckedEvent {
        event_id: Uuid::nil().to_string(),
        time: now.timestamp_micros() + micros,
        event_type: String::new(),
        user_id: String::new(),
        properties: None,
    };
    let code = |verdict, bounds: &OutputLimits| match validate(verdict, bounds, now) {
        Outcome::DeadLetter(Reason::BadVerdict, violations) => {
            violations.into_iter().map(|found| found.code).collect()
        }
        _ => String::new(),
    };
    // The limits hold to the microsecond. The clock has nanoseconds.
    for micros in [-10 * DAY_MICROS + 1, 0, 2 * DAY_MICROS] {
        assert_eq!(code(Verdict::Accept(event(micros)), &bounds), "", "{micros}");
    }
    for micros in [-10 * DAY_MICROS - 1, 2 * DAY_MICROS + 1] {
        assert_eq!(code(Verdict::Accept(event(micros)), &bounds), "time_out_of_window", "{micros}");
    }
    let message = |micros: i64| match validate(
        Verdict::Accept(UncheckedEvent { time: micros, ..event(0) }),
        &OutputLimits::DEFAULT,
        now,
    ) {
        Outcome::DeadLetter(_, violations) => violations.into_iter().map(|found| found.message).collect(),
        _ => String::new(),
    };
    let micros = now.timestamp_micros();
    assert!(message(micros / 1_000).contains("looks like milliseconds"), "{}", message(micros / 1_000));
    assert!(message(micros / 1_000_000).contains("looks like seconds"));
    assert!(message(micros * 1_000).contains("looks like nanoseconds"));
    assert!(!message(micros * 3).contains("looks like"));
    let weeks = |count: i64| Verdict::Expand((0..count).map(|i| event(-i * 7 * DAY_MICROS)).collect());
    let bounds = OutputLimits::DEFAULT;
    assert_eq!(code(weeks(64), &bounds), "");
    assert_eq!(code(weeks(65), &bounds), "expansion_weeks");
}
