import json
import unittest

from rules import judge
from sluicegate import Accept, Discard, Entry, Violation
from sluicegate.fakes import FakeHost

EVENT = {
    "event_id": "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11",
    "event_type": "purchase",
    "user_id": "ada",
    "timestamp": "2026-01-18T22:17:34.827Z",
}


def judged(**members: object) -> object:
    return judge(Entry.of({"data": json.dumps(EVENT | members)}), FakeHost())


class Rules(unittest.TestCase):
    def test_a_purchase_has_an_amount(self) -> None:
        verdict = judged(properties={"amount": 12.5})
        self.assertIsInstance(verdict, Accept)
        self.assertEqual(verdict.event.time, 1768774654827000)
        missing = Violation("properties.amount", "missing", "found nothing, expected a number")
        self.assertEqual(judged().violations, [missing])

    def test_a_heartbeat_is_discarded(self) -> None:
        self.assertEqual(judged(event_type="heartbeat"), Discard("heartbeat"))
