// What a world may import. The kit gives it to a judge as plain values.

declare module "wasi:config/store@0.2.0-rc.1";
declare module "sluicegate:guest/store@0.1.0";
declare module "sluicegate:guest/stream@0.1.0";
declare module "sluicegate:guest/metrics@0.1.0";

// Node's and the kit's: lines of the log.
declare const console: Record<"log" | "info" | "debug" | "warn" | "error", (...values: unknown[]) => void>;
