// The kit for rules in JavaScript: what a judge needs. Nothing here needs WebAssembly, so that rules are tested by Node alone.

export { CODES, Fields, Violations } from "./violations.js";
export { entryId, readEvent } from "./event.js";
export { accept, discard, expand, reject } from "./verdict.js";
export { fromMillis, fromSeconds, parseTime } from "./time.js";
export { sql, StatementError } from "./capabilities.js";
export { uuid5 } from "./uuid.js";
export { parseJson, toJson } from "./json.js";
