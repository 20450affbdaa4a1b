// Times are microseconds since the Unix epoch. What looks like another unit is refused, so that no row lands in 1970.

// As microseconds, 1973; as milliseconds, the year 5138.
const LEAST_MICROS = 1e14;

const RFC_3339 =
    /^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))$/;

/** Returns microseconds, or `null` if the text is not RFC 3339 with an offset. What is finer is cut off. */
export function parseTime(text) {
    const match = RFC_3339.exec(text);
    if (match === null) return null;
    const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number);
    const [fraction = "", sign, offsetHour = 0, offsetMinute = 0] = match.slice(7);
    const days = new Date(0).setUTCFullYear(year, month - 1, day) / 86_400_000;
    const date = new Date(days * 86_400_000);
    const isDate = date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
    if (!isDate || hour > 23 || minute > 59 || second > 60 || offsetHour > 23 || offsetMinute > 59) return null;
    const offset = (sign === "-" ? -1 : 1) * (Number(offsetHour) * 60 + Number(offsetMinute));
    const minutes = days * 1440 + hour * 60 + minute - offset;
    // A leap second is the last of a day in UTC, and counts as the first of the next.
    if (second === 60 && ((minutes % 1440) + 1440) % 1440 !== 1439) return null;
    const micros = (minutes * 60 + second) * 1_000_000 + Number(fraction.slice(0, 6).padEnd(6, "0"));
    // Beyond the year 2255 a Number does not hold microseconds exactly. The text ends with the year 9999.
    return Number.isSafeInteger(micros) ? micros : BigInt(minutes * 60 + second) * 1_000_000n + BigInt(fraction.slice(0, 6).padEnd(6, "0"));
}

/** Milliseconds since the epoch, such as those of `Date.now()`, as microseconds. */
export const fromMillis = (millis) => Math.round(millis * 1_000);

/** Seconds since the epoch as microseconds. */
export const fromSeconds = (seconds) => Math.round(seconds * 1_000_000);

/** Returns microseconds of what a row may have as its time: text, a Date, or microseconds. */
export function toMicros(time) {
    if (time instanceof Date) return fromMillis(time.getTime());
    const micros = typeof time === "string" ? parseTime(time) : time;
    const isInteger = typeof micros === "bigint" || Number.isInteger(micros);
    if (!isInteger) {
        throw new TypeError(`time is ${String(time)}, expected RFC 3339 with an offset, a Date, or whole microseconds since the epoch`);
    }
    if (typeof time !== "string" && micros > 0 && micros < LEAST_MICROS) {
        const helper = micros < 1e11 ? "fromSeconds" : "fromMillis";
        throw new RangeError(`time is ${time}: as microseconds that is before 1973; if it is not, use ${helper}()`);
    }
    return micros;
}
