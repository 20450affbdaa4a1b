"""The default rules: which form an entry has, and its five fields, with everything that is wrong with them."""

import json
import math
import re
from typing import Any

from .times import parse_time
from .types import Entry, Event
from .violations import Code, Violations, quote, tell

_NAMES = ("event_id", "event_type", "user_id", "timestamp", "properties")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DEPTH = 127
# JSON that is shorter cannot have more levels.
_SHALLOW_CHARS = 2 * _MAX_DEPTH


class _OutOfRange(ValueError):
    """A number that a 64-bit float, or JSON, does not have."""


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _OutOfRange(f"found {text[:64]}, expected a number within a 64-bit float")
    return value


def _integer(text: str) -> int:
    # PostgreSQL takes no more, and Python is slow with more.
    return int(text) if len(text) <= 300 else int(_float(text))


def _constant(text: str) -> None:
    raise _OutOfRange(f"found {text}, which JSON does not have")


_DECODER = json.JSONDecoder(parse_float=_float, parse_int=_integer, parse_constant=_constant)


def read_event(entry: Entry, found: Violations) -> Event | None:
    """
    Reads an entry as the default rules do: one field `data` with a JSON object, or flat fields of the same names. Returns the
    event, or `None` with all violations added. The time is in microseconds; the properties are a dictionary, if there are any.
    """
    fields, text = _read(entry, found)
    if fields is None:
        return None
    before = len(found.list)
    event = Event(
        event_id=_event_id(fields, found),
        event_type=_label("event_type", fields, found),
        user_id=_label("user_id", fields, found),
        time=_time(fields, found),
        properties=_properties(fields, text, found),
    )
    return event if len(found.list) == before else None


def _read(entry: Entry, found: Violations) -> tuple[dict[str, Any] | None, str]:
    """Returns the members by name, or `None` if the entry has neither form, and the JSON in which the properties are."""
    data: list[str] = []
    flat: dict[str, list[str]] = {}
    for name, value in entry.fields:
        if name == "data":
            data.append(value)
        elif name in _NAMES:
            flat.setdefault(name, []).append(value)
    if len(data) > 1:
        _add_duplicate("data", data, found)
    elif data:
        return _parse("data", data[0], found), data[0]
    elif flat:
        return _read_flat(flat, found)
    else:
        _add_no_event(entry, found)
    return None, ""


def _read_flat(flat: dict[str, list[str]], found: Violations) -> tuple[dict[str, Any] | None, str]:
    before = len(found.list)
    fields: dict[str, Any] = {}
    for name, values in flat.items():
        if len(values) > 1:
            _add_duplicate(name, values, found)
        else:
            fields[name] = _parse(name, values[0], found) if name == "properties" else values[0]
    text = flat["properties"][0] if "properties" in flat else ""
    return (None if len(found.list) > before else fields), text


def _add_duplicate(name: str, values: list[str], found: Violations) -> None:
    found.add(name, Code.DUPLICATE_FIELD, f"found {len(values)} values, expected one")


def _add_no_event(entry: Entry, found: Violations) -> None:
    names = ", ".join(quote(name) for name, _ in entry.fields[:8])
    were = f"only unknown fields: {names}" if names else "no field"
    wanted = "the fields `event_id`, `event_type`, `user_id`, `timestamp` and, if wanted, `properties`"
    found.add("", Code.MISSING, f"found {were}; expected a field `data` with a JSON object, or {wanted}")


def _parse(path: str, text: str, found: Violations) -> dict[str, Any] | None:
    try:
        value = _DECODER.decode(text)
    except _OutOfRange as error:
        found.add(path, Code.OUT_OF_RANGE, str(error))
    except json.JSONDecodeError as error:
        found.add(path, Code.JSON_SYNTAX, f"found no JSON object: {error}")
    except RecursionError:
        found.add(path, Code.TOO_DEEP, f"found JSON of too many levels, expected at most {_MAX_DEPTH}")
    else:
        if isinstance(value, dict):
            return value
        found.add(path, Code.WRONG_TYPE, f"found {tell(value)}, expected a JSON object")
    return None


def _string(name: str, fields: dict[str, Any], found: Violations) -> str | None:
    value = fields.get(name, ...)
    if value is ...:
        found.add(name, Code.MISSING, "found no such field, expected one with a string")
    elif not isinstance(value, str):
        found.add(name, Code.WRONG_TYPE, f"found {tell(value)}, expected a string")
    elif _SURROGATE.search(value):
        found.add(name, Code.INVALID_UNICODE, f"found {quote(value)}, expected no half surrogate pair")
    else:
        return value
    return None


def _event_id(fields: dict[str, Any], found: Violations) -> Any:
    text = _string("event_id", fields, found)
    if text is None or _UUID.fullmatch(text):
        return text
    wanted = "a UUID with hyphens such as `0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11`"
    found.add("event_id", Code.INVALID_UUID, f"found {quote(text)}, expected {wanted}")
    return None


def _label(name: str, fields: dict[str, Any], found: Violations) -> Any:
    text = _string(name, fields, found)
    if text == "":
        found.add(name, Code.EMPTY, "found an empty string, expected at least one character")
    elif text is not None and "\0" in text:
        found.add(name, Code.NUL_CHARACTER, f"found {quote(text)}, expected text without NUL characters")
    return text


def _time(fields: dict[str, Any], found: Violations) -> Any:
    text = _string("timestamp", fields, found)
    if text is None:
        return None
    micros = parse_time(text)
    if micros is None:
        wanted = "RFC 3339 with an offset such as `2026-01-18T22:17:34.827Z`"
        found.add("timestamp", Code.INVALID_TIMESTAMP, f"found {quote(text)}, expected {wanted}")
    return micros


def _properties(fields: dict[str, Any], text: str, found: Violations) -> dict[str, Any] | None:
    """`text` is the JSON in which the properties came: strings are unsound by their escapes alone."""
    if "properties" not in fields:
        return None
    value = fields["properties"]
    if not isinstance(value, dict):
        more = "; without properties, leave the field out" if value is None else ""
        found.add("properties", Code.WRONG_TYPE, f"found {tell(value)}, expected a JSON object{more}")
        return None
    if len(text) > _SHALLOW_CHARS and _is_deep(value, _MAX_DEPTH):
        found.add("properties", Code.TOO_DEEP, f"found more than {_MAX_DEPTH} levels, expected fewer")
    elif "\\u" in text:
        _check_strings(value, found)
    return value


def _is_deep(value: Any, levels: int) -> bool:
    """Returns whether an object has more levels than that."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deep(member, levels - 1) for member in value)


def _check_strings(value: Any, found: Violations) -> None:
    if isinstance(value, str):
        if "\0" in value:
            found.add("properties", Code.NUL_CHARACTER, f"found {quote(value)}, expected text without NUL characters")
        elif _SURROGATE.search(value):
            found.add("properties", Code.INVALID_UNICODE, f"found {quote(value)}, expected no half surrogate pair")
    elif isinstance(value, dict):
        for key, member in value.items():
            _check_strings(key, found)
            _check_strings(member, found)
    elif isinstance(value, list):
        for member in value:
            _check_strings(member, found)
