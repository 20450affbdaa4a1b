"""
Turns a judge of one entry into what a component exports. Tests do not import this module: `wit_world` is made of `wit/` when the
component is built.
"""

# The component holds what is imported while it is built. `datetime.strptime` and `uuid.uuid5` import these when they are called.
import _strptime  # noqa: F401
import hashlib  # noqa: F401
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import types as wit

from .host import Sql, StatementError, pairs, to_json
from .times import to_micros
from .types import Accept, Discard, Entry, Event, Expand, Reject

_FRAMES = 8


def component(
    judge: Callable[..., Any], *, config: Any = None, store: Any = None, stream: Any = None, metrics: Any = None
) -> type:
    """Makes the export of a judge, and of the imports of the world that the judge is to have."""
    host = _Host(config, store, stream, metrics)

    class Handler(exports.Handler):
        def process(self, batch: list[wit.Entry]) -> list[wit.Verdict]:
            return [_judge(judge, entry, host) for entry in batch]

    return Handler


def _judge(judge: Callable[..., Any], entry: Any, host: "_Host") -> wit.Verdict:
    try:
        return _lower(judge(entry, host))
    except Exception as error:
        _fail(f"entry {entry.id.milliseconds}-{entry.id.sequence}: {tell_error(error)}")


def _fail(text: str) -> NoReturn:
    """Ends the call with a text for the dead letter."""
    print(text, file=sys.stderr, flush=True)
    os._exit(1)


def tell_error(error: Exception) -> str:
    """Tells what was raised and where, innermost first, in one line."""
    what = "".join(traceback.format_exception_only(error)).strip()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.endswith("sluicegate/component.py")]
    places = [f"{frame.name} ({_path(frame.filename)}:{frame.lineno})" for frame in reversed(frames[-_FRAMES:])]
    return f"{what}, at {' < '.join(places)}" if places else what


def _path(filename: str) -> str:
    """The folders of a component are numbered in the order in which the build names them."""
    for folder, source in (("/0/", "src/"), ("/1/", "kit/")):
        if filename.startswith(folder):
            return source + filename.removeprefix(folder)
    return filename


def _lower(verdict: Any) -> wit.Verdict:
    match verdict:
        case Accept(event):
            return wit.Verdict_Accept(_lower_event(event))
        case Expand(events):
            return wit.Verdict_Expand([_lower_event(event) for event in events])
        case Reject(violations):
            return wit.Verdict_Reject(
                [wit.Violation(_text("path", v.path), _text("code", v.code), _text("message", v.message)) for v in violations]
            )
        case Discard(reason):
            return wit.Verdict_Discard(_text("reason", reason))
    raise TypeError(f"the judge returned {type(verdict).__name__}, expected Accept, Expand, Reject or Discard")


def _lower_event(event: Event) -> wit.Event:
    return wit.Event(
        event_id=_text("event_id", event.event_id),
        time=to_micros(event.time),
        event_type=_text("event_type", event.event_type),
        user_id=_text("user_id", event.user_id),
        properties=None if event.properties is None else to_json(event.properties),
    )


def _text(name: str, value: Any) -> str:
    """The runtime would end the call without a word about which value it was."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected a string")
    return value


class _Host:
    """Gives a judge the imports of the world as plain values."""

    def __init__(self, config: Any, store: Any, stream: Any, metrics: Any) -> None:
        self._config = config
        self._store = store
        self._stream = stream
        self._metrics = metrics

    def setting(self, name: str) -> str | None:
        return _called(_wanted(self._config, "config").get, name)

    def query(self, statement: str, *parameters: Any) -> list[list[Any]]:
        rows = _called(_wanted(self._store, "store").query, statement, self._lower(parameters))
        return [[getattr(column, "value", None) for column in row] for row in rows]

    def execute(self, statement: str, *parameters: Any) -> int:
        return _called(_wanted(self._store, "store").execute, statement, self._lower(parameters))

    def lag(self) -> int | None:
        return _wanted(self._stream, "stream").lag()

    def delivery_count(self, entry: Entry) -> int | None:
        return _wanted(self._stream, "stream").delivery_count(entry.id)

    def publish(self, stream: str, fields: Mapping[str, Any]) -> None:
        _called(_wanted(self._stream, "stream").publish, stream, pairs(fields))

    def count(self, name: str, labels: Mapping[str, Any] = {}, by: int = 1) -> None:
        _wanted(self._metrics, "metrics").add(name, pairs(labels), by)

    def observe(self, name: str, value: float, labels: Mapping[str, Any] = {}) -> None:
        _wanted(self._metrics, "metrics").observe(name, pairs(labels), float(value))

    def _lower(self, parameters: tuple[Any, ...]) -> list[Any]:
        return [self._lower_value(Sql.of(value)) for value in parameters]

    def _lower_value(self, value: Sql) -> Any:
        case = getattr(self._store, f"Value_{value.kind.capitalize()}")
        return case() if value.kind == "null" else case(value.value)


def _wanted(interface: Any, name: str) -> Any:
    if interface is None:
        raise RuntimeError(f"the judge has no {name}: import it in wit/world.wit, and give it to component() in src/app.py")
    return interface


def _called(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Err as error:
        case = type(error.value).__name__.rpartition("_")[2]
        code = "".join(f"-{char.lower()}" if char.isupper() else char for char in case).removeprefix("-")
        raise StatementError(code, error.value.value) from None
