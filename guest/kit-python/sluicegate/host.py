"""What the host gives beside an entry, as plain values, as far as the world imports it: see `src/app.py`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .times import to_micros
from .types import Entry


@dataclass(frozen=True, slots=True)
class Sql:
    """A value of a statement whose type cannot be told from one of Python, such as `Sql.uuid(text)`."""

    kind: str
    value: Any

    @classmethod
    def uuid(cls, value: object) -> "Sql":
        return cls("uuid", str(value))

    @classmethod
    def timestamp(cls, value: object) -> "Sql":
        """Takes what a row may have as its time."""
        return cls("timestamp", to_micros(value))

    @classmethod
    def json(cls, value: object) -> "Sql":
        return cls("json", to_json(value))

    @classmethod
    def of(cls, value: object) -> "Sql":
        """Gives a value of Python its type: `None`, `bool`, `int`, `float`, `str` and `bytes` go as they are."""
        kinds = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "text", bytes: "bytes"}
        if isinstance(value, cls):
            return value
        kind = kinds.get(type(value))
        if kind is None:
            raise TypeError(f"found a parameter of the type {type(value).__name__}: say by Sql.uuid() or another which of PostgreSQL's it is")
        return cls(kind, value)


class StatementError(Exception):
    """Why a statement, or a publication, gave nothing. `code` is the case of the contract, such as `not-granted` or `refused`."""

    def __init__(self, code: str, detail: Any) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Host(Protocol):
    """The second argument of a judge."""

    def setting(self, name: str) -> str | None:
        """Returns a setting of `[guest_settings]`. Wants `config`."""

    def query(self, statement: str, *parameters: Any) -> list[list[Any]]:
        """Runs a statement and returns its rows; a timestamp is in microseconds, a UUID and JSON are text. Wants `store`."""

    def execute(self, statement: str, *parameters: Any) -> int:
        """Runs a statement and returns the number of rows that it changed. Wants `store`."""

    def lag(self) -> int | None:
        """Returns how many entries the group was not given yet. No verdict may depend on it. Wants `stream`."""

    def delivery_count(self, entry: Entry) -> int | None: ...

    def publish(self, stream: str, fields: Mapping[str, Any]) -> None:
        """Adds an entry to a stream, once the batch is committed."""

    def count(self, name: str, labels: Mapping[str, Any] = {}, by: int = 1) -> None:
        """Adds to a counter. Wants `metrics`."""

    def observe(self, name: str, value: float, labels: Mapping[str, Any] = {}) -> None:
        """Notes a value of a histogram."""


def to_json(value: object) -> str:
    """Writes JSON. What JSON does not have, such as NaN, is an error."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def pairs(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in fields.items()]
