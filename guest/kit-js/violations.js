// Collects everything that is wrong with an entry, each with its path and its code.

/** The codes that the kit gives. Codes of your own are words in snake case too. */
export const CODES = Object.freeze({
    missing: "missing",
    duplicateField: "duplicate_field",
    jsonSyntax: "json_syntax",
    wrongType: "wrong_type",
    empty: "empty",
    nulCharacter: "nul_character",
    invalidUnicode: "invalid_unicode",
    invalidUuid: "invalid_uuid",
    invalidTimestamp: "invalid_timestamp",
    outOfRange: "out_of_range",
    tooDeep: "too_deep",
    notInEnum: "not_in_enum",
    patternMismatch: "pattern_mismatch",
});

const QUOTED_CHARS = 64;

/** Returns a found value for a message: in backquotes, cut, and without what could garble a line. */
export function quote(found) {
    const chars = Array.from(found);
    const kept = chars.slice(0, QUOTED_CHARS).join("");
    const safe = kept.replace(
        /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
        (char) => `\\u{${char.codePointAt(0).toString(16)}}`,
    );
    const left = chars.length - QUOTED_CHARS;
    return left > 0 ? `\`${safe}\`… and ${left} more characters` : `\`${safe}\``;
}

/** Tells a JSON value with its type, for a message. */
export function tell(value) {
    if (value === undefined) return "nothing";
    if (value === null) return "`null`";
    const type = Array.isArray(value) ? "array" : typeof value === "bigint" ? "number" : typeof value;
    const text = typeof value === "bigint" ? String(value) : (JSON.stringify(value, bigints) ?? String(value));
    return `the ${type} ${quote(text)}`;
}

const bigints = (_, value) => (typeof value === "bigint" ? String(value) : value);

/** Collects violations. */
export class Violations {
    /** All that was found so far, as a verdict wants it. */
    list = [];

    /** Adds one. The message is for people: what was found and what is wanted. */
    add(path, code, message) {
        this.list.push({ path, code, message });
    }

    /** Whether there is one. */
    get any() {
        return this.list.length > 0;
    }

    /** Returns the verdict that rejects the entry with all of them. */
    reject() {
        return { reject: this.list };
    }

    /** Returns the members of an object, to be looked at one by one. */
    fields(object, path = "") {
        return new Fields(object ?? {}, path, this);
    }
}

const PLAIN = /^[A-Za-z_$][\w$]*$/;

/** Returns the path of a member of what is at a path. */
function memberPath(path, name) {
    if (!PLAIN.test(name)) return `${path}[${JSON.stringify(name)}]`;
    return path === "" ? name : `${path}.${name}`;
}

/**
 * The members of a JSON object. Each method returns the value if it is sound, else `undefined`, with a violation added.
 * With `optional`, a member that is not there is no violation; `null` is one, as for the default rules.
 */
export class Fields {
    constructor(object, path, found) {
        this.members = object;
        this.path = path;
        this.found = found;
    }

    /** Returns the path of a member, for a violation of your own. */
    pathOf(name) {
        return memberPath(this.path, name);
    }

    /** Adds a violation of your own, for a member. */
    add(name, code, message) {
        this.found.add(this.pathOf(name), code, message);
    }

    /** A string. Wanted by default: not empty. */
    string(name, { optional = false, allowEmpty = false, oneOf, pattern } = {}) {
        const value = this.#typed(name, optional, "a string", (value) => typeof value === "string");
        if (value === undefined) return undefined;
        if (value === "" && !allowEmpty) {
            this.add(name, CODES.empty, "found an empty string, expected at least one character");
        } else if (oneOf && !oneOf.includes(value)) {
            this.add(name, CODES.notInEnum, `found ${quote(value)}, expected one of ${oneOf.map(quote).join(", ")}`);
        } else if (pattern && !pattern.test(value)) {
            this.add(name, CODES.patternMismatch, `found ${quote(value)}, expected text that matches ${pattern}`);
        } else {
            return value;
        }
        return undefined;
    }

    /** A number: of the bounds that are named, `above` and `below` are not in the range. */
    number(name, { optional = false, min, max, above, below } = {}) {
        const isNumber = (value) => typeof value === "number" || typeof value === "bigint";
        return this.#within(name, this.#typed(name, optional, "a number", isNumber), { min, max, above, below });
    }

    /** A number without a fraction. It is a BigInt if a Number cannot hold it exactly. */
    integer(name, { optional = false, min, max, above, below } = {}) {
        const isInteger = (value) => typeof value === "bigint" || Number.isInteger(value);
        return this.#within(name, this.#typed(name, optional, "an integer", isInteger), { min, max, above, below });
    }

    boolean(name, { optional = false } = {}) {
        return this.#typed(name, optional, "a boolean", (value) => typeof value === "boolean");
    }

    /** An object, whose members are looked at in the same way; always something to ask further. */
    object(name, { optional = false } = {}) {
        const value = this.#typed(name, optional, "an object", isObject);
        // What is not there has been told: its members are not missing besides.
        return value === undefined ? new Fields({}, "", new Violations()) : new Fields(value, this.pathOf(name), this.found);
    }

    /** A list of objects: `each` gets the members of each one, and its index. Returns what `each` returns. */
    objects(name, each, { optional = false, min = 0, max = Infinity } = {}) {
        const list = this.#typed(name, optional, "an array", Array.isArray);
        if (list === undefined) return [];
        if (list.length < min || list.length > max) {
            this.add(name, CODES.outOfRange, `found ${list.length} items, expected ${min} to ${max}`);
        }
        return list.map((item, index) => {
            const path = `${this.pathOf(name)}[${index}]`;
            if (isObject(item)) return each(new Fields(item, path, this.found), index);
            this.found.add(path, CODES.wrongType, `found ${tell(item)}, expected an object`);
            return undefined;
        });
    }

    #typed(name, optional, wanted, is) {
        const value = Object.hasOwn(this.members, name) ? this.members[name] : undefined;
        if (value === undefined) {
            if (!optional) this.add(name, CODES.missing, `found nothing, expected ${wanted}`);
        } else if (is(value)) {
            return value;
        } else {
            this.add(name, CODES.wrongType, `found ${tell(value)}, expected ${wanted}`);
        }
        return undefined;
    }

    #within(name, value, { min, max, above, below }) {
        const bounds = [
            [min, "at least", (bound) => value >= bound],
            [max, "at most", (bound) => value <= bound],
            [above, "more than", (bound) => value > bound],
            [below, "less than", (bound) => value < bound],
        ];
        for (const [bound, words, holds] of bounds) {
            if (value !== undefined && bound !== undefined && !holds(bound)) {
                this.add(name, CODES.outOfRange, `found ${quote(String(value))}, expected a number of ${words} ${bound}`);
                return undefined;
            }
        }
        return value;
    }
}

/** Returns whether a value is a JSON object. */
export function isObject(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}
