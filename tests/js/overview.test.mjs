import assert from "node:assert/strict";
import { test } from "node:test";
import { Refresh } from "../../static/js/admin/overview.js";

const TEXTS = { live: "live", paused: "paused", silent: "silent", ended: "ended", over: "over" };
const REDIRECT = { status: 0, type: "opaqueredirect", ok: false };
const FORBIDDEN = { status: 403, type: "basic", ok: false };
const BROKEN = { status: 502, type: "basic", ok: false };

/** A page whose server gives these responses, as a browser reports them. */
function page(...responses) {
  const status = { dataset: TEXTS, textContent: "" };
  const parts = {
    "[data-overview]": { dataset: { overview: "/admin/overview/" }, querySelector: () => null },
    "[data-pace]": status,
    "[data-pause]": { addEventListener() {}, setAttribute() {} },
  };
  const requests = [];
  const fetch = async (address, { redirect }) => {
    requests.push(address);
    const response = responses[requests.length - 1];
    if (response === REDIRECT && redirect === "error") throw new TypeError("redirected");
    return response;
  };
  const section = { querySelector: (selector) => parts[selector] };
  new Refresh(section, { page: { hidden: false, addEventListener() {} }, fetch, everyMs: 1 }).start();
  return { status, requests, button: parts["[data-pause]"] };
}

/** Wait for a condition, at most three seconds. */
async function until(condition) {
  const end = Date.now() + 3000;
  while (!condition() && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.ok(condition());
}

for (const [name, response] of Object.entries({ "a redirect to the login": REDIRECT, "a refused permission": FORBIDDEN })) {
  test(`${name} ends the updates and is shown`, async () => {
    const { status, requests, button } = page(BROKEN, response);
    await until(() => status.textContent === "silent");
    await until(() => status.textContent === "over");
    assert.equal(requests.length, 2);
    assert.equal(button.hidden, true);
  });
}
