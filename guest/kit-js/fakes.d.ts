import type { Column, Host } from "./sluicegate.js";

export interface FakeHost extends Host {
    published: { stream: string; fields: Record<string, string> }[];
    samples: { name: string; labels: Record<string, unknown>; add?: number; observe?: number }[];
}

/** Makes a host of what its statements answer, by name: rows, or the number of rows changed. */
export function fakeHost(answers?: {
    settings?: Record<string, string>;
    statements?: Record<string, (...parameters: Column[]) => Column[][] | number>;
    deliveries?: Record<string, number>;
    lag?: number;
}): FakeHost;
