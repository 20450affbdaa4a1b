// Builds the component, by `node kit/build.mjs`: takes the types out of what is TypeScript, and puts the rest, with the engine,
// into rules.wasm. What is left of a file keeps its lines and columns, so that those of an error are right.

import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

import amaro from "amaro";
import { componentize } from "componentize-qjs";

const OUT = "build";
const ENTRY = "src/component.js";

async function* sources(folder) {
    for (const entry of await readdir(folder, { withFileTypes: true })) {
        const path = join(folder, entry.name);
        if (entry.isDirectory()) yield* sources(path);
        else if (/\.[jt]s$/.test(path) && !path.endsWith(".d.ts")) yield path;
    }
}

async function strip(path) {
    const text = await readFile(path, "utf8");
    if (!path.endsWith(".ts")) return text;
    try {
        return amaro.transformSync(text, { mode: "strip-only", filename: path }).code;
    } catch (error) {
        throw new Error(`${path}: ${error.message}. Of TypeScript, use what is left out without a trace: no enum, no namespace`);
    }
}

await rm(OUT, { recursive: true, force: true });
for (const folder of ["kit", "src", "tests"]) {
    for await (const path of sources(folder)) {
        const out = join(OUT, path.replace(/\.ts$/, ".js"));
        await mkdir(dirname(out), { recursive: true });
        await writeFile(out, await strip(path));
    }
}

const entry = join(OUT, ENTRY);
try {
    const { component } = await componentize({
        witPath: "wit",
        world: "rules",
        jsSource: await readFile(entry, "utf8"),
        jsPath: entry,
        moduleRoot: ".", // packages are found in node_modules
        sync: true, // the service has no asynchronous components
    });
    await writeFile("rules.wasm", component);
} catch (error) {
    // The trace is of the build, and not of the rules.
    console.error(error.message.replace(/^[\s:]+/, "").trim());
    process.exitCode = 1;
}
