"""Tests the kit itself, by `python3 -m unittest`."""

import json
import re
import unittest
from datetime import datetime, timezone
from typing import Any

from sluicegate import (
    Entry,
    Event,
    Sql,
    StatementError,
    Violations,
    from_millis,
    from_seconds,
    parse_time,
    read_event,
)
from sluicegate.fakes import FakeHost
from sluicegate.host import to_json
from sluicegate.times import to_micros

EVENT = {
    "event_id": "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11",
    "event_type": "purchase",
    "user_id": "ada",
    "timestamp": "2026-01-18T22:17:34.827Z",
}


def data(**members: Any) -> Entry:
    return Entry.of({"data": json.dumps({k: v for k, v in (EVENT | members).items() if v is not ...})})


def read(entry: Entry) -> tuple[Event | None, list[str]]:
    found = Violations()
    return read_event(entry, found), [f"{violation.path} {violation.code}" for violation in found.list]


class Events(unittest.TestCase):
    def test_an_event_is_read_from_either_form(self) -> None:
        event = Event(EVENT["event_id"], "purchase", "ada", 1768774654827000, {"amount": 1})
        self.assertEqual(read(data(properties={"amount": 1})), (event, []))
        self.assertEqual(read(Entry.of(EVENT | {"properties": '{"amount":1}'})), (event, []))

    def test_everything_that_is_wrong_is_told_each_with_its_path(self) -> None:
        deep: Any = 1
        for _ in range(128):
            deep = {"a": deep}

        def twice(*fields: tuple[str, str]) -> Entry:
            return Entry(Entry.of({}).id, list(fields))

        cases = [
            (Entry.of({}), [" missing"]),
            (Entry.of({"data": "[1]"}), ["data wrong_type"]),
            (Entry.of({"data": "{"}), ["data json_syntax"]),
            (Entry.of({"data": '{"a":1e999}'}), ["data out_of_range"]),
            (Entry.of({"data": '{"a":%s}' % ("9" * 400)}), ["data out_of_range"]),
            (Entry.of({"data": '{"a":NaN}'}), ["data out_of_range"]),
            (
                data(event_id="7", user_id="", event_type=1, timestamp="now"),
                ["event_id invalid_uuid", "event_type wrong_type", "user_id empty", "timestamp invalid_timestamp"],
            ),
            (
                data(event_id=..., user_id=..., properties=None),
                ["event_id missing", "user_id missing", "properties wrong_type"],
            ),
            (data(user_id="\0", properties={"a": ["\0"]}), ["user_id nul_character", "properties nul_character"]),
            (data(event_id="\ud800"), ["event_id invalid_unicode"]),
            (Entry.of(EVENT | {"properties": "1"}), ["properties wrong_type"]),
            (twice(("user_id", "a"), ("user_id", "b")), ["user_id duplicate_field"]),
            (twice(("data", "{}"), ("data", "{}")), ["data duplicate_field"]),
            (data(properties=deep), ["properties too_deep"]),
        ]
        for entry, wanted in cases:
            with self.subTest(wanted):
                self.assertEqual(read(entry), (None, wanted))

    def test_numbers_keep_their_digits(self) -> None:
        for text in ('{"a":9007199254740993}', '{"a":12345678901234567890}', '{"a":1.5}'):
            event, _ = read(Entry.of(EVENT | {"properties": text}))
            self.assertEqual(to_json(event.properties), text)
        self.assertRaises(ValueError, to_json, {"a": float("nan")})


class Members(unittest.TestCase):
    def test_members_are_checked_with_their_paths(self) -> None:
        found = Violations()
        members = {
            "plan": "lead",
            "first name": 1,
            "items": [{"price": 2}, {"price": -1}, 3],
            "more": {},
            "count": 1.5,
            "yes": True,
            "code": "x",
        }
        fields = found.fields(members, "properties")
        self.assertIsNone(fields.string("plan", one_of=["gold", "silver"]))
        fields.string("first name")
        self.assertEqual(fields.objects("items", lambda item, _: item.number("price", min=0)), [2, None, None])
        fields.object("more").boolean("new")
        fields.object("none").boolean("new")
        fields.integer("count")
        fields.integer("yes")
        fields.string("code", pattern=re.compile("^y"))
        self.assertEqual(fields.number("count", below=2), 1.5)
        self.assertIsNone(fields.string("absent", optional=True))
        told = [f"{violation.path} {violation.code}" for violation in found.list]
        wanted = [
            "properties.plan not_in_enum",
            'properties["first name"] wrong_type',
            "properties.items[1].price out_of_range",
            "properties.items[2] wrong_type",
            "properties.more.new missing",
            "properties.none missing",
            "properties.count wrong_type",
            "properties.yes wrong_type",
            "properties.code pattern_mismatch",
        ]
        self.assertEqual(told, wanted)


class Times(unittest.TestCase):
    def test_text_is_rfc_3339(self) -> None:
        cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-18T22:17:34.8271239+02:00", 1768767454827123),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2016-12-31T23:59:60Z", 1483228800000000),
            ("0001-01-01T00:00:00Z", -62135596800000000),
            ("2026-02-29T00:00:00Z", None),
            ("2026-01-18T22:17:60Z", None),
            ("2026-01-18T24:00:00Z", None),
            ("2026-01-18 22:17:34Z", None),
            ("2026-01-18T22:17:34", None),
        ]
        for text, wanted in cases:
            self.assertEqual(parse_time(text), wanted, text)

    def test_what_is_no_microseconds_is_refused(self) -> None:
        wanted = 1768774654827000
        self.assertEqual([from_millis(1768774654827), from_seconds(1768774654.827)], [wanted, wanted])
        self.assertEqual(to_micros(datetime.fromtimestamp(1768774654.827, timezone.utc)), wanted)
        self.assertEqual(to_micros("2026-01-18T22:17:34.827Z"), wanted)
        for wrong, told in (
            (1768774654827, "from_millis"),
            (1768774654, "from_seconds"),
            (datetime(2026, 1, 1), "tzinfo"),
            ("now", "RFC 3339"),
            (1.5, "RFC 3339"),
        ):
            with self.assertRaisesRegex((TypeError, ValueError), told):
                to_micros(wrong)


class Hosts(unittest.TestCase):
    def test_values_of_statements_have_types(self) -> None:
        kinds = [Sql.of(value).kind for value in (None, True, 1, 1.0, "a", b"a", Sql.uuid("a"), Sql.json({}))]
        self.assertEqual(kinds, ["null", "boolean", "integer", "number", "text", "bytes", "uuid", "json"])
        self.assertEqual(Sql.timestamp("1970-01-01T00:00:01Z").value, 1_000_000)
        self.assertRaisesRegex(TypeError, "dict", Sql.of, {})

    def test_a_fake_host_answers_and_keeps_what_was_done(self) -> None:
        host = FakeHost(settings={"salt": "x"}, statements={"plan": lambda user: [[f"{user}'s"]]}, lag=3)
        asked = [host.setting("salt"), host.query("plan", "ada"), host.lag(), host.delivery_count(Entry.of({}))]
        self.assertEqual(asked, ["x", [["ada's"]], 3, 1])
        self.assertRaisesRegex(StatementError, "not-granted: other", host.query, "other")
        host.publish("purchases", {"amount": 1})
        host.count("seen", {"plan": "gold"})
        self.assertEqual(host.published, [("purchases", {"amount": "1"})])
        self.assertEqual(host.samples, [("seen", {"plan": "gold"}, 1)])
