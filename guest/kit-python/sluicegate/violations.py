"""Collects everything that is wrong with an entry, each with its path and its code."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from .types import Reject, Violation

T = TypeVar("T")

_QUOTED_CHARS = 64
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")


class Code:
    """The codes that the kit gives. Codes of your own are words in snake case too."""

    MISSING = "missing"
    DUPLICATE_FIELD = "duplicate_field"
    JSON_SYNTAX = "json_syntax"
    WRONG_TYPE = "wrong_type"
    EMPTY = "empty"
    NUL_CHARACTER = "nul_character"
    INVALID_UNICODE = "invalid_unicode"
    INVALID_UUID = "invalid_uuid"
    INVALID_TIMESTAMP = "invalid_timestamp"
    OUT_OF_RANGE = "out_of_range"
    TOO_DEEP = "too_deep"
    NOT_IN_ENUM = "not_in_enum"
    PATTERN_MISMATCH = "pattern_mismatch"


def quote(found: str) -> str:
    """Returns a found value for a message: in backquotes, cut, and without what could garble a line."""
    safe = _UNPRINTABLE.sub(lambda match: f"\\u{{{ord(match[0]):x}}}", found[:_QUOTED_CHARS])
    left = len(found) - _QUOTED_CHARS
    return f"`{safe}`… and {left} more characters" if left > 0 else f"`{safe}`"


def tell(value: object) -> str:
    """Tells a JSON value with its type, for a message."""
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    if value is None:
        return "`null`"
    return f"the {names.get(type(value), type(value).__name__)} {quote(json.dumps(value, ensure_ascii=False, default=str))}"


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_integer(value) or isinstance(value, float)


class Violations:
    """Collects violations. It is true if there is one."""

    def __init__(self) -> None:
        self.list: list[Violation] = []

    def __bool__(self) -> bool:
        return bool(self.list)

    def add(self, path: str, code: str, message: str) -> None:
        """Adds one. The message is for people: what was found and what is wanted."""
        self.list.append(Violation(path, code, message))

    def reject(self) -> Reject:
        """Returns the verdict that rejects the entry with all of them."""
        return Reject(self.list)

    def fields(self, members: Mapping[str, Any] | None, path: str = "") -> "Fields":
        """Returns the members of an object, to be looked at one by one. Nothing counts as `{}`."""
        return Fields(members or {}, path, self)


class Fields:
    """
    The members of a JSON object. Each method returns the value if it is sound, else `None`, with a violation added. With
    `optional`, a member that is not there is no violation; `null` is one, as for the default rules.
    """

    def __init__(self, members: Mapping[str, Any], path: str, found: Violations) -> None:
        self.members = members
        self.path = path
        self.found = found

    def path_of(self, name: str) -> str:
        """Returns the path of a member, for a violation of your own."""
        if not _PLAIN.fullmatch(name):
            return f"{self.path}[{json.dumps(name, ensure_ascii=False)}]"
        return f"{self.path}.{name}" if self.path else name

    def add(self, name: str, code: str, message: str) -> None:
        """Adds a violation of your own, for a member."""
        self.found.add(self.path_of(name), code, message)

    def string(
        self,
        name: str,
        *,
        optional: bool = False,
        allow_empty: bool = False,
        one_of: Collection[str] | None = None,
        pattern: re.Pattern[str] | None = None,
    ) -> str | None:
        """A string. Wanted by default: not empty."""
        value = self._typed(name, optional, "a string", lambda value: isinstance(value, str))
        if value is None:
            return None
        if value == "" and not allow_empty:
            self.add(name, Code.EMPTY, "found an empty string, expected at least one character")
        elif one_of is not None and value not in one_of:
            wanted = ", ".join(map(quote, one_of))
            self.add(name, Code.NOT_IN_ENUM, f"found {quote(value)}, expected one of {wanted}")
        elif pattern is not None and not pattern.search(value):
            self.add(name, Code.PATTERN_MISMATCH, f"found {quote(value)}, expected text that matches {pattern.pattern}")
        else:
            return value
        return None

    def number(
        self,
        name: str,
        *,
        optional: bool = False,
        min: float | None = None,
        max: float | None = None,
        above: float | None = None,
        below: float | None = None,
    ) -> int | float | None:
        """A number: of the bounds that are named, `above` and `below` are not in the range."""
        value = self._typed(name, optional, "a number", _is_number)
        return self._within(name, value, min, max, above, below)

    def integer(
        self,
        name: str,
        *,
        optional: bool = False,
        min: int | None = None,
        max: int | None = None,
        above: int | None = None,
        below: int | None = None,
    ) -> int | None:
        """A number without a fraction or an exponent."""
        value = self._typed(name, optional, "an integer", _is_integer)
        return self._within(name, value, min, max, above, below)

    def boolean(self, name: str, *, optional: bool = False) -> bool | None:
        return self._typed(name, optional, "a boolean", lambda value: isinstance(value, bool))

    def object(self, name: str, *, optional: bool = False) -> "Fields":
        """An object, whose members are looked at in the same way; always something to ask further."""
        value = self._typed(name, optional, "an object", lambda value: isinstance(value, dict))
        if value is None:
            # What is not there has been told: its members are not missing besides.
            return Fields({}, "", Violations())
        return Fields(value, self.path_of(name), self.found)

    def objects(
        self,
        name: str,
        each: Callable[["Fields", int], T],
        *,
        optional: bool = False,
        min: int = 0,
        max: int | None = None,
    ) -> list[T | None]:
        """A list of objects: `each` gets the members of each one, and its index. Returns what `each` returns."""
        items = self._typed(name, optional, "an array", lambda value: isinstance(value, list))
        if items is None:
            return []
        if len(items) < min or (max is not None and len(items) > max):
            wanted = f"at least {min}" if max is None else f"{min} to {max}"
            self.add(name, Code.OUT_OF_RANGE, f"found {len(items)} items, expected {wanted}")
        returned: list[T | None] = []
        for index, item in enumerate(items):
            path = f"{self.path_of(name)}[{index}]"
            if isinstance(item, dict):
                returned.append(each(Fields(item, path, self.found), index))
            else:
                self.found.add(path, Code.WRONG_TYPE, f"found {tell(item)}, expected an object")
                returned.append(None)
        return returned

    def _typed(self, name: str, optional: bool, wanted: str, is_wanted: Callable[[Any], bool]) -> Any:
        if name not in self.members:
            if not optional:
                self.add(name, Code.MISSING, f"found nothing, expected {wanted}")
            return None
        value = self.members[name]
        if is_wanted(value):
            return value
        self.add(name, Code.WRONG_TYPE, f"found {tell(value)}, expected {wanted}")
        return None

    def _within(self, name: str, value: Any, min: Any, max: Any, above: Any, below: Any) -> Any:
        if value is None:
            return None
        for bound, words, holds in (
            (min, "at least", lambda bound: value >= bound),
            (max, "at most", lambda bound: value <= bound),
            (above, "more than", lambda bound: value > bound),
            (below, "less than", lambda bound: value < bound),
        ):
            if bound is not None and not holds(bound):
                self.add(name, Code.OUT_OF_RANGE, f"found {quote(str(value))}, expected a number of {words} {bound}")
                return None
        return value
