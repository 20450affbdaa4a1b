"""
Judges entries: by the default rules first, then by two of our own.

- A `purchase` must have a `properties.amount`, a number greater than 0.
- A `heartbeat` is discarded.
"""

from sluicegate import Accept, Discard, Entry, Host, Verdict, Violations, read_event


def judge(entry: Entry, host: Host) -> Verdict:
    """It must be a pure function: an entry that comes again must yield the same rows."""
    found = Violations()
    event = read_event(entry, found)
    if event is None:
        return found.reject()
    if event.event_type == "heartbeat":
        return Discard("heartbeat")
    if event.event_type == "purchase":
        found.fields(event.properties, "properties").number("amount", above=0)
    return found.reject() if found else Accept(event)
