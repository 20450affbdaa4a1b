//! Tests that PostgreSQL takes what the host validates: extreme values, in great variety.

use std::fmt::Write as _;

use sluicegate_tests::{Event, Fields, Scene, fields, guests};

/// Makes the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    /// Returns the next number, by xorshift64*.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn text(&mut self) -> String {
        const PALETTE: [&str; 14] = [
            "",
            " ",
            "a",
            "\"",
            "\\",
            "'",
            "\n\t\r\u{1}\u{7f}",
            "é",
            "e\u{301}",
            "\u{1f980}",
            "\u{202e}",
            "\u{fffe}\u{feff}",
            "\u{10ffff}",
            "{1,NULL}",
        ];
        (0..self.below(12)).map(|_| self.pick(&PALETTE)).collect()
    }

    /// Picks a time: the ends, 4713 BC and AD 262142, or one at which calendars change.
    fn time(&mut self) -> i64 {
        self.pick(&[
            -210_863_520_000_000_000,
            8_210_266_790_400_000_000,
            -62_135_596_800_000_000, // the beginning of AD 1
            -62_135_596_800_000_001,
            253_402_300_800_000_000, // the beginning of AD 10000
            951_782_400_000_000,     // a leap day
            -1,
            0,
            946_684_800_000_001, // PostgreSQL's own epoch
        ])
    }

    fn number(&mut self) -> String {
        match self.below(8) {
            0 => "-0".to_owned(),
            1 => "1.7976931348623157e308".to_owned(),
            2 => "-5e-324".to_owned(),
            3 => "9".repeat(308),
            4 => format!("0.{}1", "0".repeat(2_000)),
            5 => format!("{}.{}E+{}", self.below(10), self.next(), self.below(300)),
            6 => u64::MAX.to_string(),
            _ => i64::MIN.to_string(),
        }
    }

    fn string(&mut self) -> String {
        match self.below(4) {
            0 => r#""\ud83e\udd80 \u0001 \/ \b\f""#.to_owned(),
            1 => r#""\\u0000 is no NUL""#.to_owned(),
            _ => serde_json::Value::String(self.text()).to_string(),
        }
    }

    fn value(&mut self, levels: u64) -> String {
        match self.below(if levels == 0 { 3 } else { 6 }) {
            0 => self.number(),
            1 => self.string(),
            2 => self
                .pick(&["null", "true", "false", "[]", "{}"][..if levels == 0 { 3 } else { 5 }])
                .to_owned(),
            3 => {
                let items: Vec<String> = (0..self.below(4)).map(|_| self.value(levels - 1)).collect();
                format!("[ {} ]", items.join(" , "))
            }
            _ => self.object(levels - 1),
        }
    }

    /// Makes an object with keys that may repeat.
    fn object(&mut self, levels: u64) -> String {
        let mut object = String::from("{");
        for i in 0..self.below(4) {
            let comma = if i == 0 { "" } else { "," };
            let (key, value) = (self.string(), self.value(levels));
            write!(object, "{comma}{key}:{value}").unwrap();
        }
        object.push('}');
        object
    }

    fn properties(&mut self) -> String {
        match self.below(10) {
            // This has 127 levels, the limit.
            0 => format!("{{\"a\":{}{}}}", "[".repeat(126), "]".repeat(126)),
            1 => format!("{}1{}", "{\"a\":".repeat(127), "}".repeat(127)),
            2 => format!("\r\n\t {{ \"a\" : {} }}\n", self.number()),
            _ => self.object(6),
        }
    }
}

#[test]
fn what_passes_the_screen_is_stored() {
    const COUNT: usize = 600;
    let scene = Scene::new();
    let mut numbers = Numbers(0x5eed_1e55_c0ff_ee00);
    let entries: Vec<Fields> = (0..COUNT)
        .map(|_| {
            let event_id = Event::new().event_id;
            let event_id = match numbers.below(3) {
                0 => event_id.simple().to_string(),
                1 => event_id.to_string().to_uppercase(),
                _ => event_id.to_string(),
            };
            let mut entry = vec![
                ("verdict", "accept".to_owned()),
                ("event_id", event_id),
                ("time", numbers.time().to_string()),
                ("event_type", numbers.text()),
                ("user_id", numbers.text()),
            ];
            if numbers.below(10) > 0 {
                entry.push(("properties", numbers.properties()));
            }
            fields(entry)
        })
        .collect();
    scene.stream.add_all(&entries);
    let launch = scene.service().set("MAX_EVENT_AGE", "100000000d").set("MAX_EVENT_AHEAD", "100000000d");
    let service = launch.set("GUEST", guests::scripted().display()).start();
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert!(letters.is_empty(), "{} letters, the first: {:#?}", letters.len(), letters[0]);
    assert_eq!(scene.database.value::<i64>("SELECT count(*) FROM events"), i64::try_from(COUNT).unwrap());
    // The rows are stored as they were sent, in the order of the IDs, which were counted up.
    let column = |i: usize| -> Vec<String> {
        entries.iter().map(|entry| String::from_utf8(entry[i].1.clone()).unwrap()).collect()
    };
    let stored = |what: &str| -> Vec<String> {
        scene.database.value(&format!("SELECT array_agg(({what})::text ORDER BY event_id) FROM events"))
    };
    assert_eq!(stored("event_type"), column(3));
    assert_eq!(stored("user_id"), column(4));
    assert_eq!(stored("trunc(extract(epoch FROM time) * 1000000)"), column(2));
    service.stop();
}
