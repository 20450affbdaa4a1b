// A host for tests of functions. The goldens get their answers from tests/fakes.toml.

import { pairs, parameter, StatementError } from "./capabilities.js";
import { entryId } from "./event.js";

/**
 * A host for tests. `statements` has a function for each one, which gets the parameters and returns rows, or the number of rows
 * changed. What the rules publish and count is kept.
 */
export function fakeHost({ settings = {}, statements = {}, deliveries = {}, lag } = {}) {
    const published = [];
    const samples = [];
    const run = (name, parameters) => {
        if (!Object.hasOwn(statements, name)) throw new StatementError("not-granted", name);
        return statements[name](...parameters.map((value) => parameter(value).val ?? null));
    };
    return {
        published,
        samples,
        setting: (name) => settings[name],
        query: (name, ...parameters) => run(name, parameters),
        execute: (name, ...parameters) => run(name, parameters),
        lag: () => lag,
        deliveryCount: (entry) => deliveries[entryId(entry)] ?? 1,
        publish: (stream, fields) => void published.push({ stream, fields: Object.fromEntries(pairs(fields)) }),
        count: (name, labels = {}, by = 1) => void samples.push({ name, labels, add: by }),
        observe: (name, value, labels = {}) => void samples.push({ name, labels, observe: value }),
    };
}
