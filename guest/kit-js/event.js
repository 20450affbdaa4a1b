// The default rules: which form an entry has, and its five fields, with everything that is wrong with them.

import { parseJson } from "./json.js";
import { parseTime } from "./time.js";
import { CODES, isObject, quote, tell } from "./violations.js";

const NAMES = ["event_id", "event_type", "user_id", "timestamp", "properties"];
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const MAX_DEPTH = 127;
// JSON that is shorter cannot have more levels.
const SHALLOW_CHARS = 2 * MAX_DEPTH;

/** Returns the ID of an entry as Redis writes it, which is unique in its stream. */
export const entryId = ({ id }) => `${id.milliseconds}-${id.sequence}`;

/**
 * Reads an entry as the default rules do: one field `data` with a JSON object, or flat fields of the same names. Returns the event,
 * or `null` with all violations added. The time is in microseconds; the properties are an object, if there are any.
 */
export function readEvent(entry, found) {
    const [fields, json] = read(entry, found);
    if (fields === null) return null;
    const before = found.list.length;
    const event = {
        event_id: uuid(fields, found),
        event_type: label("event_type", fields, found),
        user_id: label("user_id", fields, found),
        time: time(fields, found),
        properties: properties(fields, json, found),
    };
    if (found.list.length > before) return null;
    if (event.properties === undefined) delete event.properties;
    return event;
}

/** Returns the members by name, or `null` if the entry has neither form, and the JSON in which the properties are. */
function read(entry, found) {
    const data = [];
    const flat = {};
    for (const [name, value] of entry.fields) {
        if (name === "data") data.push(value);
        else if (NAMES.includes(name)) (flat[name] ??= []).push(value);
    }
    if (data.length > 1) addDuplicate("data", data, found);
    else if (data.length === 1) return [parseObject("data", data[0], found), data[0]];
    else if (Object.keys(flat).length === 0) addNoEvent(entry, found);
    else return readFlat(flat, found);
    return [null, ""];
}

function readFlat(flat, found) {
    const fields = {};
    for (const [name, values] of Object.entries(flat)) {
        if (values.length > 1) addDuplicate(name, values, found);
        else fields[name] = name === "properties" ? parseObject(name, values[0], found) : values[0];
    }
    return found.any ? [null, ""] : [fields, fields.properties === undefined ? "" : flat.properties[0]];
}

function addDuplicate(name, values, found) {
    found.add(name, CODES.duplicateField, `found ${values.length} values, expected one`);
}

function addNoEvent(entry, found) {
    const names = entry.fields.slice(0, 8).map(([name]) => quote(name));
    const were = names.length > 0 ? `only unknown fields: ${names.join(", ")}` : "no field";
    const wanted = "a field `data` with a JSON object, or the fields `event_id`, `event_type`, `user_id`, `timestamp` and, if wanted, `properties`";
    found.add("", CODES.missing, `found ${were}; expected ${wanted}`);
}

function parseObject(path, text, found) {
    let value;
    try {
        value = parseJson(text);
    } catch (error) {
        if (error instanceof RangeError) found.add(path, CODES.outOfRange, error.message);
        else if (error instanceof SyntaxError) found.add(path, CODES.jsonSyntax, `found no JSON object: ${error.message}`);
        else found.add(path, CODES.tooDeep, `found JSON of too many levels, expected at most ${MAX_DEPTH}`);
        return null;
    }
    if (isObject(value)) return value;
    found.add(path, CODES.wrongType, `found ${tell(value)}, expected a JSON object`);
    return null;
}

function string(name, fields, found) {
    const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
    if (value === undefined) found.add(name, CODES.missing, "found no such field, expected one with a string");
    else if (typeof value !== "string") found.add(name, CODES.wrongType, `found ${tell(value)}, expected a string`);
    else if (!value.isWellFormed()) found.add(name, CODES.invalidUnicode, `found ${quote(value.toWellFormed())}, expected no half surrogate pair`);
    else return value;
    return undefined;
}

function uuid(fields, found) {
    const text = string("event_id", fields, found);
    if (text === undefined || UUID.test(text)) return text;
    found.add("event_id", CODES.invalidUuid, `found ${quote(text)}, expected a UUID with hyphens such as \`0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11\``);
    return undefined;
}

function label(name, fields, found) {
    const text = string(name, fields, found);
    if (text === "") found.add(name, CODES.empty, "found an empty string, expected at least one character");
    else if (text?.includes("\0")) found.add(name, CODES.nulCharacter, `found ${quote(text)}, expected text without NUL characters`);
    else return text;
    return undefined;
}

function time(fields, found) {
    const text = string("timestamp", fields, found);
    if (text === undefined) return undefined;
    const micros = parseTime(text);
    if (micros !== null) return micros;
    found.add("timestamp", CODES.invalidTimestamp, `found ${quote(text)}, expected RFC 3339 with an offset such as \`2026-01-18T22:17:34.827Z\``);
    return undefined;
}

/** `text` is the JSON in which the properties came: strings are unsound by their escapes alone. */
function properties(fields, text, found) {
    if (!Object.hasOwn(fields, "properties")) return undefined;
    const value = fields.properties;
    if (!isObject(value)) {
        const wanted = value === null ? "a JSON object; without properties, leave the field out" : "a JSON object";
        found.add("properties", CODES.wrongType, `found ${tell(value)}, expected ${wanted}`);
        return undefined;
    }
    if (text.length > SHALLOW_CHARS && isDeep(value, MAX_DEPTH)) {
        found.add("properties", CODES.tooDeep, `found more than ${MAX_DEPTH} levels, expected fewer`);
    } else if (text.includes("\\u")) {
        checkStrings(value, found);
    }
    return value;
}

/** Returns whether an object has more levels than that. */
function isDeep(value, levels) {
    if (typeof value !== "object" || value === null) return false;
    if (levels === 0) return true;
    for (const key in value) if (isDeep(value[key], levels - 1)) return true;
    return false;
}

function checkStrings(value, found) {
    if (typeof value === "string") {
        if (value.includes("\0")) found.add("properties", CODES.nulCharacter, `found ${quote(value)}, expected text without NUL characters`);
        else if (!value.isWellFormed()) found.add("properties", CODES.invalidUnicode, `found ${quote(value.toWellFormed())}, expected no half surrogate pair`);
    } else if (typeof value === "object" && value !== null) {
        for (const [key, member] of Object.entries(value)) {
            checkStrings(key, found);
            checkStrings(member, found);
        }
    }
}
