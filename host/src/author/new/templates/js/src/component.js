// @ts-check
// What the component exports. Capabilities, and settings, go from here to the judge, whose second argument they are:
// what is imported here must be imported in wit/world.wit too, and granted in sluicegate.toml.

import { component } from "../kit/component.js";
import { judge } from "./rules.js";

// import * as config from "wasi:config/store@0.2.0-rc.1";
// import * as store from "sluicegate:guest/store@0.1.0";
// import * as stream from "sluicegate:guest/stream@0.1.0";
// import * as metrics from "sluicegate:guest/metrics@0.1.0";

export const handler = component(judge, {});
