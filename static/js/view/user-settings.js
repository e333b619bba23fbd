/** What this person likes here: appearance and the Enter key. Logging out asks first when something was not sent yet. */
import { find, findAll, setAttribute } from "./dom.js";
import { gettext } from "../i18n.js";
import * as words from "../phrases.js";

const YEAR_S = 365 * 86_400;

export class Settings {
  /** page: {keep, composer, outbox, ask}. */
  constructor(page) {
    this.#theme();
    this.#enter(page);
    this.#logOut(page);
  }

  #theme() {
    const root = document.documentElement;
    for (const radio of findAll("[data-theme-choice] input")) {
      radio.checked = radio.value === (root.dataset.theme ?? "");
      radio.addEventListener("change", () => {
        setAttribute(root, "data-theme", radio.value || null);
        // The server reads it and writes the attribute, so that the next page does not flash.
        document.cookie = `theme=${radio.value}; path=/; max-age=${radio.value ? YEAR_S : 0}; samesite=lax${location.protocol === "https:" ? "; secure" : ""}`;
      });
    }
  }

  #enter({ keep, composer }) {
    for (const radio of findAll("[data-enter-choice] input")) {
      radio.checked = radio.value === (keep.get("enter") ?? "");
      radio.addEventListener("change", () => {
        keep.set("enter", radio.value);
        composer.refresh();
      });
    }
  }

  #logOut({ outbox, ask }) {
    const form = find("[data-logout]");
    form.addEventListener("submit", async (event) => {
      if (!outbox.items.size) return;
      event.preventDefault();
      const yes = await ask({ title: gettext("Log out with messages not sent?"), effect: `${words.messagesNotSent(outbox.items.size)}. ${gettext("They stay on this device until you log in here again.")}`, yes: gettext("Log out") });
      if (yes) form.submit();
    });
  }
}
