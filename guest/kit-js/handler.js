// Turns a judge of one entry into the handler that a component exports.

import { hostOf } from "./capabilities.js";
import { entryId } from "./event.js";
import { toJson } from "./json.js";
import { toMicros } from "./time.js";

const KINDS = ["accept", "expand", "reject", "discard"];

/**
 * Makes the handler. `imports` are those of the world that the judge is to have; `fail` ends the call with a text for the dead
 * letter, and does not return.
 */
export function handlerOf(judge, imports, fail) {
    return {
        process(batch) {
            // 64-bit numbers are Numbers in QuickJS, and BigInts in ComponentizeJS: the batch shows which.
            const integer = typeof batch[0]?.id.milliseconds === "bigint" ? BigInt : Number;
            const host = hostOf(imports, integer);
            return batch.map((entry) => {
                try {
                    return lowerVerdict(judge(entry, host), integer);
                } catch (error) {
                    return fail(`entry ${entryId(entry)}: ${tellError(error)}`);
                }
            });
        },
    };
}

function lowerVerdict(verdict, integer) {
    const [kind, ...more] = Object.keys(verdict ?? {});
    if (!KINDS.includes(kind) || more.length > 0) {
        throw new TypeError("the judge returned no verdict: return accept(), expand(), reject() or discard()");
    }
    const value = verdict[kind];
    switch (kind) {
        case "accept":
            return { tag: kind, val: lowerEvent(value, integer) };
        case "expand":
            return { tag: kind, val: value.map((event) => lowerEvent(event, integer)) };
        case "reject":
            return { tag: kind, val: value.map(lowerViolation) };
        default:
            return { tag: kind, val: text("a discard's reason", value) };
    }
}

function lowerEvent(event, integer) {
    const { properties } = event;
    return {
        eventId: text("event_id", event.event_id),
        time: integer(toMicros(event.time)),
        eventType: text("event_type", event.event_type),
        userId: text("user_id", event.user_id),
        properties: properties === undefined || properties === null ? null : toJson(properties),
    };
}

function lowerViolation({ path, code, message }) {
    return { path: text("path", path), code: text("code", code), message: text("message", message) };
}

/** The engine would end the call without a word about which value it was. */
function text(name, value) {
    if (typeof value === "string") return value.isWellFormed() ? value : value.toWellFormed();
    throw new TypeError(`${name} is ${String(value)}, expected a string`);
}

/** Tells what was thrown and where, innermost first, in one line. */
export function tellError(error) {
    const what = error instanceof Error ? String(error) : `${JSON.stringify(error) ?? error} was thrown, which is no Error`;
    const places = [...String(error?.stack ?? "").matchAll(/at (?:(.*?) \()?(?:file:\/\/)?([^\s()]+:\d+:\d+)\)?/g)];
    const told = places
        .map(([, name, place]) => [name, place.replace(/^\/?(?:.*\/)?build\//, "")])
        .filter(([, place]) => !place.startsWith("kit/handler.js"))
        .slice(0, 8)
        .map(([name, place]) => (name && !name.startsWith("<") ? `${name} (${place})` : place));
    return told.length > 0 ? `${what}, at ${told.join(" < ")}` : what;
}
