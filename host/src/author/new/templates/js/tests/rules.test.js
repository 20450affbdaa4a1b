import assert from "node:assert/strict";
import test from "node:test";

import { judge } from "../src/rules.js";

const event = {
    event_id: "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11",
    event_type: "purchase",
    user_id: "ada",
    timestamp: "2026-01-18T22:17:34.827Z",
};

function judged(members) {
    return judge({ id: { milliseconds: 1, sequence: 0 }, fields: [["data", JSON.stringify({ ...event, ...members })]] });
}

test("a purchase has an amount", () => {
    assert.equal(judged({ properties: { amount: 12.5 } }).accept.time, 1768774654827000);
    assert.deepEqual(judged({}).reject, [{ path: "properties.amount", code: "missing", message: "found nothing, expected a number" }]);
});

test("a heartbeat is discarded", () => {
    assert.deepEqual(judged({ event_type: "heartbeat" }), { discard: "heartbeat" });
});
