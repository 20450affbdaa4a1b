"""The kit for rules in Python: what a judge needs. Nothing here needs WebAssembly, so that rules are tested by Python alone."""

from .event import read_event
from .host import Host, Sql, StatementError
from .times import from_datetime, from_millis, from_seconds, parse_time
from .types import Accept, Discard, Entry, EntryId, Event, Expand, Reject, Verdict, Violation
from .violations import Code, Fields, Violations

__all__ = [
    "Accept",
    "Code",
    "Discard",
    "Entry",
    "EntryId",
    "Event",
    "Expand",
    "Fields",
    "Host",
    "Reject",
    "Sql",
    "StatementError",
    "Verdict",
    "Violation",
    "Violations",
    "from_datetime",
    "from_millis",
    "from_seconds",
    "parse_time",
    "read_event",
]
