/** This machine's time and its timers. */

/** @type {import("../model/protocol.js").Clock} */
export const clock = {
  now: () => Date.now(),
  set: (action, ms) => setTimeout(action, ms),
  clear: (handle) => clearTimeout(handle),
};
