// The types of the kit.

/** A 64-bit number: a BigInt where a Number does not hold it exactly, and in ComponentizeJS always. */
export type Integer = number | bigint;

/** The ID that Redis gave an entry. `entryId` writes it as Redis does. */
export interface EntryId {
    milliseconds: Integer;
    sequence: Integer;
}

/** One stream entry, with its fields in the producer's order. A name may occur more than once. */
export interface Entry {
    id: EntryId;
    fields: [name: string, value: string][];
}

export type Json = null | boolean | number | bigint | string | Json[] | { [name: string]: Json | undefined };
export type JsonObject = { [name: string]: Json | undefined };

/** RFC 3339 with an offset, a Date, or microseconds since the epoch: see `fromMillis`. */
export type Time = string | Date | Integer;

/** One row for the table `events`. */
export interface Event {
    /** A UUID. Together with the time it is the row's key. */
    event_id: string;
    time: Time;
    event_type: string;
    user_id: string;
    /** An object, or nothing for NULL. */
    properties?: JsonObject | null;
}

/** Why an entry is refused. */
export interface Violation {
    /** Such as `properties.items[2].price`. Empty for the entry as a whole. */
    path: string;
    /** A stable word in snake case, which is counted: it must not contain data. */
    code: string;
    /** For people: what was found and what is wanted. */
    message: string;
}

/** What is to become of one entry, in the form of the goldens. */
export type Verdict = { accept: Event } | { expand: Event[] } | { reject: Violation[] } | { discard: string };

/** Judges one entry. It must be a pure function: no state survives from one batch to the next. */
export type Judge = (entry: Entry, host: Host) => Verdict;

export function accept(event: Event): Verdict;
export function expand(events: Event[]): Verdict;
export function reject(violations: Violation[]): Verdict;
export function discard(reason: string): Verdict;

/** Returns the ID of an entry as Redis writes it: `1700000000000-0`. */
export function entryId(entry: Entry): string;

/** An event as the default rules read it: its time is in microseconds. */
export interface ReadEvent extends Event {
    time: Integer;
    properties?: JsonObject;
}

/** Reads an entry as the default rules do, or returns `null` with all violations added to `found`. */
export function readEvent(entry: Entry, found: Violations): ReadEvent | null;

/** Collects violations. */
export class Violations {
    list: Violation[];
    readonly any: boolean;
    add(path: string, code: string, message: string): void;
    /** Returns the verdict that rejects the entry with all of them. */
    reject(): Verdict;
    /** Returns the members of an object, to be looked at one by one. Nothing counts as `{}`. */
    fields(object: JsonObject | null | undefined, path?: string): Fields;
}

export interface Optional {
    /** A member that is not there is no violation. */
    optional?: boolean;
}

export interface Range extends Optional {
    min?: number;
    max?: number;
    above?: number;
    below?: number;
}

/** The members of a JSON object. Each method returns the value if it is sound, else `undefined` with a violation added. */
export class Fields {
    private constructor();
    members: JsonObject;
    path: string;
    pathOf(name: string): string;
    /** Adds a violation of your own, for a member. */
    add(name: string, code: string, message: string): void;
    string(name: string, wanted?: Optional & { allowEmpty?: boolean; oneOf?: string[]; pattern?: RegExp }): string | undefined;
    number(name: string, wanted?: Range): Integer | undefined;
    integer(name: string, wanted?: Range): Integer | undefined;
    boolean(name: string, wanted?: Optional): boolean | undefined;
    object(name: string, wanted?: Optional): Fields;
    objects<T>(name: string, each: (item: Fields, index: number) => T, wanted?: Optional & { min?: number; max?: number }): (T | undefined)[];
}

/** The codes that the kit gives. */
export const CODES: Readonly<Record<string, string>>;

/** Returns microseconds, or `null` if the text is not RFC 3339 with an offset. */
export function parseTime(text: string): Integer | null;
/** Milliseconds since the epoch, such as those of a Date, as microseconds. */
export function fromMillis(millis: number): number;
/** Seconds since the epoch as microseconds. */
export function fromSeconds(seconds: number): number;

/** Returns the UUID of version 5 of a name: the same name gives the same UUID. For each row of an `expand`, for example. */
export function uuid5(namespace: string, name: string): string;

/** JSON.parse that keeps all digits of an integer: beyond 2^53 it is a BigInt. */
export function parseJson(text: string): Json;
/** JSON.stringify that writes BigInts as numbers. */
export function toJson(value: Json): string;

/** A value of a statement whose type cannot be told from one of JavaScript. */
export interface SqlValue {
    tag: string;
    val?: unknown;
}
export type Parameter = null | string | boolean | Uint8Array | SqlValue;
/** A value of a row. A timestamp is in microseconds; a UUID and JSON are text. */
export type Column = null | boolean | Integer | string | Uint8Array;

export const sql: {
    integer(value: Integer): SqlValue;
    number(value: number): SqlValue;
    uuid(value: string): SqlValue;
    timestamp(time: Time): SqlValue;
    json(value: Json): SqlValue;
};

/** Why a statement, or a publication, gave nothing. */
export class StatementError extends Error {
    constructor(code: string, detail: unknown);
    /** The case of the contract: `not-granted`, `refused`, `timed-out`, … */
    code: string;
    detail: unknown;
}

/** What the host gives beside the entry, as far as the world imports it: see `src/component.js`. */
export interface Host {
    /** A setting of `[guest_settings]`. Wants `config`. */
    setting(name: string): string | undefined;
    /** Runs a statement and returns its rows. Wants `store`. */
    query(statement: string, ...parameters: Parameter[]): Column[][];
    /** Runs a statement and returns the number of rows that it changed. Wants `store`. */
    execute(statement: string, ...parameters: Parameter[]): number;
    /** Entries that the group was not given yet. No verdict may depend on it. Wants `stream`. */
    lag(): Integer | undefined;
    deliveryCount(entry: Entry): number | undefined;
    /** Adds an entry to a stream, once the batch is committed. */
    publish(stream: string, fields: Record<string, unknown>): void;
    /** Adds to a counter. Wants `metrics`. */
    count(name: string, labels?: Record<string, unknown>, by?: number): void;
    /** Notes a value of a histogram. */
    observe(name: string, value: number, labels?: Record<string, unknown>): void;
}
