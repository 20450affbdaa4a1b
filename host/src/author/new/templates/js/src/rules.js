// @ts-check
import { accept, discard, readEvent, Violations } from "../kit/sluicegate.js";

/**
 * Judges one entry: the default rules first, then two of our own.
 *
 * - A `purchase` must have a `properties.amount`, a number greater than 0.
 * - A `heartbeat` is discarded.
 *
 * It must be a pure function: an entry that comes again must yield the same rows.
 *
 * @type {import("../kit/sluicegate.js").Judge}
 */
export function judge(entry) {
    const found = new Violations();
    const event = readEvent(entry, found);
    if (event === null) return found.reject();
    if (event.event_type === "heartbeat") return discard("heartbeat");
    if (event.event_type === "purchase") {
        found.fields(event.properties, "properties").number("amount", { above: 0 });
    }
    return found.any ? found.reject() : accept(event);
}
