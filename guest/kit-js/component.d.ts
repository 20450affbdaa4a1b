import type { Judge } from "./sluicegate.js";

/** Makes the export of a component of a judge, and of the imports of its world that the judge is to have. */
export function component(judge: Judge, imports?: { config?: unknown; store?: unknown; stream?: unknown; metrics?: unknown }): unknown;
