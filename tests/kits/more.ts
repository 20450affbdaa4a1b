// Rules in TypeScript that use all of the kit, for tests/cases/author_new_kits.rs.

import { accept, expand, sql, StatementError, uuid5, Violations } from "../kit/sluicegate.js";
import type { Entry, Event, Host, Verdict } from "../kit/sluicegate.js";
import { judge as first } from "./rules.js";

export function judge(entry: Entry, host: Host): Verdict {
    const verdict = first(entry, host);
    if (!("accept" in verdict)) return verdict;
    const event = verdict.accept;
    if (event.event_type === "crash") return crash(event);
    if (event.event_type === "millis") return accept({ ...event, time: 1768774654827 });
    if (event.event_type !== "order") return verdict;
    const found = new Violations();
    const fields = found.fields(event.properties, "properties");
    fields.objects("items", (item) => item.number("price", { min: 0 }), { optional: true });
    try {
        return found.any ? found.reject() : order(event, host);
    } catch (error) {
        if (!(error instanceof StatementError)) throw error;
        found.add("", "not_enriched", error.message);
        return found.reject();
    }
}

function order(event: Event, host: Host): Verdict {
    const [[plan] = ["none"]] = host.query("user_plan", event.user_id);
    host.execute("touch_user", event.user_id, sql.timestamp(event.time));
    host.publish("purchases", { plan });
    host.count("purchases", { plan });
    host.observe("amount", 1.5);
    const properties = { ...event.properties, plan: plan as string, region: host.setting("region"), none: host.setting("none") };
    console.log("an order é", event.user_id);
    return expand([{ ...event, properties }, { ...event, event_id: uuid5(event.event_id, "copy"), time: new Date(1768774654000) }]);
}

function crash(event: any): Verdict {
    return event.missing.member;
}
