"""Times are microseconds since the Unix epoch. What looks like another unit is refused, so that no row lands in 1970."""

import re
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
# As microseconds, 1973; as milliseconds, the year 5138.
_LEAST_MICROS = 10**14
_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)


def parse_time(text: str) -> int | None:
    """Returns microseconds, or `None` if the text is not RFC 3339 with an offset. What is finer is cut off."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction, sign, offset_hour, offset_minute = match.groups()[6:]
    try:
        days = (datetime(year, month, day, tzinfo=timezone.utc) - _EPOCH).days
    except ValueError:
        return None
    if hour > 23 or minute > 59 or second > 60 or int(offset_hour or 0) > 23 or int(offset_minute or 0) > 59:
        return None
    offset = (int(offset_hour or 0) * 60 + int(offset_minute or 0)) * (-1 if sign == "-" else 1)
    minutes = days * 1440 + hour * 60 + minute - offset
    # A leap second is the last of a day in UTC, and counts as the first of the next.
    if second == 60 and minutes % 1440 != 1439:
        return None
    return (minutes * 60 + second) * 1_000_000 + int((fraction or "")[:6].ljust(6, "0"))


def from_millis(millis: float) -> int:
    """Milliseconds since the epoch as microseconds."""
    return round(millis * 1_000)


def from_seconds(seconds: float) -> int:
    """Seconds since the epoch, such as those of `time.time()`, as microseconds."""
    return round(seconds * 1_000_000)


def from_datetime(time: datetime) -> int:
    """A datetime as microseconds. It must know its zone."""
    if time.tzinfo is None:
        raise ValueError(f"time is {time.isoformat()} without a zone, expected one with tzinfo, such as timezone.utc")
    return (time - _EPOCH) // _MICROSECOND


def to_micros(time: object) -> int:
    """Returns microseconds of what a row may have as its time."""
    if isinstance(time, datetime):
        return from_datetime(time)
    if isinstance(time, str):
        micros = parse_time(time)
        if micros is not None:
            return micros
    elif isinstance(time, int) and not isinstance(time, bool):
        if 0 < time < _LEAST_MICROS:
            helper = "from_seconds" if time < 10**11 else "from_millis"
            raise ValueError(f"time is {time}: as microseconds that is before 1973; if it is not, use {helper}()")
        return time
    raise TypeError(f"time is {time!r}, expected RFC 3339 with an offset, a datetime, or whole microseconds since the epoch")
