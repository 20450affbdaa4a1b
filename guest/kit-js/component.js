// What a component needs of WASI: where text goes that is printed, and an end. Tests by Node do not load this file.

import { exit } from "wasi:cli/exit@0.2.0";
import { getStderr } from "wasi:cli/stderr@0.2.0";
import { getStdout } from "wasi:cli/stdout@0.2.0";

import { handlerOf } from "./handler.js";
import { utf8 } from "./uuid.js";

// The host takes 4,096 bytes at a time.
const WRITE_BYTES = 4096;

function write(stream, text) {
    const bytes = Uint8Array.from(utf8(`${text}\n`));
    for (let at = 0; at < bytes.length; at += WRITE_BYTES) stream.blockingWriteAndFlush(bytes.subarray(at, at + WRITE_BYTES));
}

const show = (value) => (typeof value === "string" ? value : value instanceof Error ? String(value) : (JSON.stringify(value) ?? String(value)));
const out = (...values) => write(getStdout(), values.map(show).join(" "));
const err = (...values) => write(getStderr(), values.map(show).join(" "));

// QuickJS has none. What is printed is in the log of the service, and after a fault in the dead letter.
globalThis.console ??= { log: out, info: out, debug: out, warn: err, error: err };

/** Makes the export of a component of a judge, and of the imports of its world that the judge is to have. */
export function component(judge, imports = {}) {
    return handlerOf(judge, imports, (text) => {
        write(getStderr(), text);
        exit({ tag: "err" });
    });
}
