// Wraps what the host gives beside a batch, so that rules see plain values.

import { toJson } from "./json.js";
import { toMicros } from "./time.js";

/** Values of statements whose type cannot be told from a value of JavaScript. Text, booleans, null and bytes go as they are. */
export const sql = {
    integer: (value) => ({ tag: "integer", val: value }),
    number: (value) => ({ tag: "number", val: value }),
    uuid: (value) => ({ tag: "uuid", val: value }),
    timestamp: (time) => ({ tag: "timestamp", val: toMicros(time) }),
    json: (value) => ({ tag: "json", val: toJson(value) }),
};

/** Why a statement, or a publication, gave nothing. `code` is the case of the contract, such as `not-granted` or `refused`. */
export class StatementError extends Error {
    constructor(code, detail) {
        super(`${code}: ${typeof detail === "object" ? `${detail.code} ${detail.message}` : detail}`);
        this.name = "StatementError";
        this.code = code;
        this.detail = detail;
    }
}

/** Gives a parameter the form of the contract. */
export function parameter(value) {
    if (value === null) return { tag: "null" };
    if (typeof value === "string") return { tag: "text", val: value };
    if (typeof value === "boolean") return { tag: "boolean", val: value };
    if (value instanceof Uint8Array) return { tag: "bytes", val: value };
    if (typeof value?.tag === "string") return value;
    throw new TypeError(`found a parameter of the type ${typeof value}: say by sql.integer() or another of sql which of PostgreSQL's it is`);
}

/** Calls the host. ComponentizeJS puts what the host throws into an error's payload. */
function called(call) {
    try {
        return call();
    } catch (error) {
        const told = error?.payload ?? error;
        if (typeof told?.tag === "string") throw new StatementError(told.tag, told.val);
        throw error;
    }
}

/** Gives fields or labels the form of the contract. */
export const pairs = (object) => Object.entries(object).map(([name, value]) => [name, String(value)]);

/**
 * Makes what a judge gets as its second argument of the interfaces that the world imports. An interface that is not given is not
 * there, and neither are its methods. `integer` gives a 64-bit number the form that the engine wants.
 */
export function hostOf({ config, store, stream, metrics }, integer = (value) => value) {
    const lower = (value) => {
        const { tag, val } = parameter(value);
        return tag === "integer" || tag === "timestamp" ? { tag, val: integer(val) } : { tag, val };
    };
    return {
        setting: config && ((name) => called(() => config.get(name)) ?? undefined),
        query: store && ((name, ...parameters) =>
            called(() => store.query(name, parameters.map(lower))).map((row) => row.map(({ val = null }) => val))),
        execute: store && ((name, ...parameters) => Number(called(() => store.execute(name, parameters.map(lower))))),
        lag: stream && (() => stream.lag() ?? undefined),
        deliveryCount: stream && ((entry) => stream.deliveryCount(entry.id) ?? undefined),
        publish: stream && ((name, fields) => called(() => stream.publish(name, pairs(fields)))),
        count: metrics && ((name, labels = {}, by = 1) => metrics.add(name, pairs(labels), integer(by))),
        observe: metrics && ((name, value, labels = {}) => metrics.observe(name, pairs(labels), value)),
    };
}
