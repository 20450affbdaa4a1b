// Reads and writes JSON without losing a digit of an integer, which JSON.parse does beyond 2^53.

// Without such digits, no number of a text can be inexact.
const MAYBE_INEXACT = /\d{16}|\d[eE]\+?\d{3}/;
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const INTEGER = /^-?\d+$/;
// U+0000 is in no JSON that PostgreSQL can hold, so it tells a mark from a producer's text.
const MARK = "\u0000integer:";
const MARKED = /"\\u0000integer:(-?\d+)"/g;

/**
 * Parses JSON as JSON.parse does, with two differences: an integer that a Number cannot hold exactly is a BigInt, and a number
 * beyond a 64-bit float throws a RangeError.
 */
export function parseJson(text) {
    if (!MAYBE_INEXACT.test(text)) return JSON.parse(text);
    JSON.parse(text); // so that an error names a place of the text itself
    const marked = text.replace(TOKENS, (token) => {
        if (token[0] === '"') return token;
        const number = Number(token);
        if (!Number.isFinite(number)) throw new RangeError(`found ${token.slice(0, 64)}, expected a number within a 64-bit float`);
        return INTEGER.test(token) && !Number.isSafeInteger(number) ? `"\\u0000integer:${token}"` : token;
    });
    return JSON.parse(marked, (_, value) =>
        typeof value === "string" && value.startsWith(MARK) ? BigInt(value.slice(MARK.length)) : value,
    );
}

/** Writes JSON as JSON.stringify does, and BigInts as numbers. A number that JSON does not have throws. */
export function toJson(value) {
    let hasBigInt = false;
    const text = JSON.stringify(value, (key, value) => {
        if (typeof value === "bigint") {
            hasBigInt = true;
            return MARK + value;
        }
        if (typeof value === "number" && !Number.isFinite(value)) throw new RangeError(`found ${value} for ${key}, which JSON does not have`);
        return value;
    });
    return hasBigInt ? text.replace(MARKED, "$1") : text;
}
