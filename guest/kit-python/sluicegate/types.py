"""What goes into a judge and what comes out of it, as `wit/deps/sluicegate/types.wit` says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Union


@dataclass(slots=True)
class EntryId:
    """The ID that Redis gave a stream entry."""

    milliseconds: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.sequence}"


@dataclass(slots=True)
class Entry:
    """One stream entry, with its fields in the producer's order. A name may occur more than once."""

    id: EntryId
    fields: list[tuple[str, str]]

    @classmethod
    def of(cls, fields: Mapping[str, str], id: str = "1700000000000-0") -> "Entry":
        """Makes an entry for a test."""
        milliseconds, _, sequence = id.partition("-")
        return cls(EntryId(int(milliseconds), int(sequence)), list(fields.items()))


@dataclass(slots=True)
class Event:
    """One row for the table `events`."""

    event_id: str
    """A UUID. Together with the time it is the row's key."""
    event_type: str
    user_id: str
    time: int | datetime | str
    """Microseconds since the epoch, a datetime with its zone, or RFC 3339 with an offset."""
    properties: Mapping[str, Any] | None = None
    """A JSON object, or nothing for NULL."""


@dataclass(slots=True)
class Violation:
    """One reason why an entry is refused."""

    path: str
    """Such as `properties.items[2].price`. Empty for the entry as a whole."""
    code: str
    """A stable word in snake case, which is counted: it must not contain data."""
    message: str
    """For people: what was found and what is wanted."""


@dataclass(slots=True)
class Accept:
    """Stores one row."""

    event: Event


@dataclass(slots=True)
class Expand:
    """Stores several rows, all or none: 1 to 1,000."""

    events: Sequence[Event]


@dataclass(slots=True)
class Reject:
    """Keeps the entry as a dead letter, with these reasons."""

    violations: Sequence[Violation]


@dataclass(slots=True)
class Discard:
    """Drops the entry on purpose, with a short reason, which is counted: it must not contain data."""

    reason: str


Verdict = Union[Accept, Expand, Reject, Discard]
"""What is to become of one entry."""
