"""Rules in Python that use all of the kit, for tests/cases/author_new_kits.rs."""

import uuid
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from rules import judge as first
from sluicegate import Accept, Entry, Event, Expand, Host, Sql, StatementError, Verdict, Violations


def judge(entry: Entry, host: Host) -> Verdict:
    verdict = first(entry, host)
    if not isinstance(verdict, Accept):
        return verdict
    event = verdict.event
    if event.event_type == "crash":
        return crash(event)
    if event.event_type == "millis":
        return Accept(replace(event, time=1768774654827))
    if event.event_type != "order":
        return verdict
    found = Violations()
    fields = found.fields(event.properties, "properties")
    fields.objects("items", lambda item, _: item.number("price", min=0), optional=True)
    try:
        return found.reject() if found else order(event, host)
    except StatementError as error:
        found.add("", "not_enriched", str(error))
        return found.reject()


def order(event: Event, host: Host) -> Verdict:
    rows = host.query("user_plan", event.user_id)
    plan = rows[0][0] if rows else "none"
    host.execute("touch_user", event.user_id, Sql.timestamp(event.time))
    host.publish("purchases", {"plan": plan})
    host.count("purchases", {"plan": plan})
    host.observe("amount", 1.5)
    properties = dict(event.properties or {}, plan=plan, region=host.setting("region"))
    if host.setting("none") is not None:
        raise ValueError("a setting that is not set")
    print("an order é", event.user_id)
    copy = str(uuid.uuid5(uuid.UUID(event.event_id), "copy"))
    time = datetime.fromtimestamp(1768774654, timezone.utc)
    return Expand([replace(event, properties=properties), replace(event, event_id=copy, time=time)])


def crash(event: Any) -> Verdict:
    return event.missing.member
