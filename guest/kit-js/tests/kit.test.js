// Tests the kit itself, by `node --test`.

import assert from "node:assert/strict";
import test from "node:test";

import { fakeHost } from "../fakes.js";
import { handlerOf, tellError } from "../handler.js";
import { accept, discard, expand, fromMillis, parseJson, parseTime, readEvent, reject, sql, StatementError, toJson, uuid5, Violations } from "../sluicegate.js";

const EVENT = {
    event_id: "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11",
    event_type: "purchase",
    user_id: "ada",
    timestamp: "2026-01-18T22:17:34.827Z",
};

const entry = (fields) => ({ id: { milliseconds: 1700000000000, sequence: 0 }, fields: Object.entries(fields) });
const data = (members) => entry({ data: JSON.stringify({ ...EVENT, ...members }) });

function read(entry) {
    const found = new Violations();
    return [readEvent(entry, found), found.list.map(({ path, code }) => `${path} ${code}`)];
}

test("an event is read from either form", () => {
    const event = { event_id: EVENT.event_id, event_type: "purchase", user_id: "ada", time: 1768774654827000, properties: { amount: 1 } };
    assert.deepEqual(read(data({ properties: { amount: 1 } })), [event, []]);
    assert.deepEqual(read(entry({ ...EVENT, properties: '{"amount":1}' })), [event, []]);
});

test("everything that is wrong is told, each with its path", () => {
    const cases = [
        [entry({}), " missing"],
        [entry({ data: "[1]" }), "data wrong_type"],
        [entry({ data: "{" }), "data json_syntax"],
        [entry({ data: '{"a":1e999}' }), "data out_of_range"],
        [data({ event_id: "7", user_id: "", event_type: 1, timestamp: "now" }), "event_id invalid_uuid", "event_type wrong_type", "user_id empty", "timestamp invalid_timestamp"],
        [data({ event_id: undefined, user_id: undefined, properties: null }), "event_id missing", "user_id missing", "properties wrong_type"],
        [data({ user_id: "\0", properties: { a: ["\0"] } }), "user_id nul_character", "properties nul_character"],
        [entry({ data: '{"event_id":"\\ud800"}' }), "event_id invalid_unicode", "event_type missing", "user_id missing", "timestamp missing"],
        [entry({ ...EVENT, properties: "1" }), "properties wrong_type"],
        [{ ...entry({}), fields: [["user_id", "a"], ["user_id", "b"]] }, "user_id duplicate_field"],
        [{ ...entry({}), fields: [["data", "{}"], ["data", "{}"]] }, "data duplicate_field"],
        [data({ properties: JSON.parse('{"a":'.repeat(128) + "1" + "}".repeat(128)) }), "properties too_deep"],
    ];
    for (const [entry, ...wanted] of cases) assert.deepEqual(read(entry), [null, wanted]);
});

test("members are checked with their paths", () => {
    const found = new Violations();
    const fields = found.fields({ plan: "lead", "first name": 1, items: [{ price: 2 }, { price: -1n }, 3], more: {}, count: 1.5 }, "properties");
    assert.equal(fields.string("plan", { oneOf: ["gold", "silver"] }), undefined);
    fields.string("first name");
    assert.deepEqual(fields.objects("items", (item) => item.number("price", { min: 0 })), [2, undefined, undefined]);
    fields.object("more").boolean("new");
    fields.object("none").boolean("new");
    fields.integer("count");
    assert.equal(fields.number("count", { below: 2 }), 1.5);
    assert.equal(fields.string("absent", { optional: true }), undefined);
    const told = found.list.map(({ path, code }) => `${path} ${code}`);
    assert.deepEqual(told, [
        "properties.plan not_in_enum",
        'properties["first name"] wrong_type',
        "properties.items[1].price out_of_range",
        "properties.items[2] wrong_type",
        "properties.more.new missing",
        "properties.none missing",
        "properties.count wrong_type",
    ]);
});

test("integers keep their digits", () => {
    for (const text of ['{"a":9007199254740993,"b":[-12345678901234567890],"c":"9007199254740993","d":1.5}', "[1,2.5,1e21]", '"1e999"']) {
        assert.equal(toJson(parseJson(text)), text.replace("1e21", "1e+21"));
    }
    assert.equal(parseJson("9007199254740993"), 9007199254740993n);
    assert.throws(() => parseJson("[1e999]"), RangeError);
    assert.throws(() => toJson({ a: NaN }), RangeError);
    assert.throws(() => parseJson("{"), SyntaxError);
});

test("times are microseconds, and what is not is refused", () => {
    const cases = [
        ["1970-01-01T00:00:00Z", 0],
        ["2026-01-18T22:17:34.8271239+02:00", 1768767454827123],
        ["1969-12-31T23:59:59.999999Z", -1],
        ["2016-12-31T23:59:60Z", 1483228800000000],
        ["0001-01-01T00:00:00Z", -62135596800000000n],
        ["2026-02-29T00:00:00Z", null],
        ["2026-01-18T22:17:60Z", null],
        ["2026-01-18T24:00:00Z", null],
        ["2026-01-18 22:17:34Z", null],
        ["2026-01-18T22:17:34", null],
    ];
    for (const [text, wanted] of cases) assert.equal(parseTime(text), wanted, text);
    const judged = (time) => handlerOf(() => accept({ ...EVENT, time }), {}, (text) => text).process([data({})])[0];
    assert.equal(judged(fromMillis(1768774654827)).val.time, 1768774654827000);
    assert.equal(judged(new Date(1768774654827)).val.time, 1768774654827000);
    assert.match(judged(1768774654827), /before 1973.*fromMillis/);
    assert.match(judged(1768774654), /fromSeconds/);
    assert.match(judged("now"), /expected RFC 3339/);
});

test("verdicts have the form of the contract", () => {
    const handle = (verdict) => handlerOf(() => verdict, {}, (text) => text).process([data({})])[0];
    const row = { ...EVENT, time: "2026-01-18T22:17:34.827Z", properties: { n: 9007199254740993n } };
    const val = { eventId: EVENT.event_id, time: 1768774654827000, eventType: "purchase", userId: "ada", properties: '{"n":9007199254740993}' };
    assert.deepEqual(handle(accept(row)), { tag: "accept", val });
    assert.deepEqual(handle(expand([row])), { tag: "expand", val: [val] });
    assert.deepEqual(handle(reject([{ path: "", code: "a", message: "b" }])).tag, "reject");
    assert.deepEqual(handle(discard("bot")), { tag: "discard", val: "bot" });
    assert.match(handle(undefined), /^entry 1700000000000-0: TypeError: the judge returned no verdict/);
    assert.match(handle(accept({ ...row, user_id: 7 })), /user_id is 7, expected a string/);
});

test("64-bit numbers are of the engine's kind", () => {
    const batch = [{ id: { milliseconds: 1n, sequence: 0n }, fields: [] }];
    const [verdict] = handlerOf(() => accept({ ...EVENT, time: 1768774654827000 }), {}, assert.fail).process(batch);
    assert.equal(verdict.val.time, 1768774654827000n);
});

test("an error is told with its place", () => {
    assert.match(tellError(new TypeError("no")), /^TypeError: no, at .*kit\.test\.js:\d+:\d+/);
    assert.equal(tellError({ a: 1 }), '{"a":1} was thrown, which is no Error');
    const error = new Error("x");
    error.stack = "    at thrower (/build/src/rules.js:2:37)\n    at map (native)\n    at <anonymous> (/build/kit/handler.js:1:2)\n";
    assert.equal(tellError(error), "Error: x, at thrower (src/rules.js:2:37)");
});

test("capabilities take and give plain values", () => {
    const calls = [];
    const store = {
        query: (...call) => (calls.push(call), [[{ tag: "text", val: "gold" }, { tag: "null" }]]),
        execute: () => {
            throw { tag: "refused", val: { code: "23514", message: "no" } };
        },
    };
    const judge = (_, host) => {
        assert.deepEqual(host.query("plan", "ada", null, true, sql.integer(1), sql.timestamp("1970-01-01T00:00:01Z")), [["gold", null]]);
        assert.throws(() => host.execute("touch"), (error) => error instanceof StatementError && error.code === "refused" && error.detail.code === "23514");
        assert.throws(() => host.query("plan", 1), /sql\.integer\(\)/);
        return discard("done");
    };
    handlerOf(judge, { store }, assert.fail).process([{ id: { milliseconds: 1n, sequence: 0n }, fields: [] }]);
    const [, parameters] = calls[0];
    assert.deepEqual(parameters.map(({ tag, val }) => [tag, val]), [["text", "ada"], ["null", undefined], ["boolean", true], ["integer", 1n], ["timestamp", 1000000n]]);
});

test("a fake host answers, and keeps what was done", () => {
    const host = fakeHost({ settings: { salt: "x" }, statements: { plan: (user) => [[`${user}'s`]] }, lag: 3 });
    assert.deepEqual([host.setting("salt"), host.query("plan", "ada"), host.lag(), host.deliveryCount(entry({}))], ["x", [["ada's"]], 3, 1]);
    assert.throws(() => host.query("other"), StatementError);
    host.publish("purchases", { amount: 1 });
    host.count("seen", { plan: "gold" });
    assert.deepEqual(host.published, [{ stream: "purchases", fields: { amount: "1" } }]);
    assert.deepEqual(host.samples, [{ name: "seen", labels: { plan: "gold" }, add: 1 }]);
});

test("a name gives its UUID of version 5", () => {
    const dns = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    assert.equal(uuid5(dns, "www.example.com"), "2ed6657d-e927-568b-95e1-2665a8aea6a2");
    assert.equal(uuid5(dns, "é".repeat(60)), "e99794b5-224f-510c-9a06-463aef715f2c");
});
