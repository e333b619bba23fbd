/** The user's settings: appearance and the Enter key. Logging out needs a confirmation while messages are unsent. */
import { confirmAction } from "./confirm.js";
import { find, findAll, setAttribute } from "./dom.js";
import { gettext } from "../i18n.js";
import * as phrases from "../phrases.js";

/** @import { Composer } from "./composer.js" */
/** @import { Outbox } from "../model/outbox.js" */
/** @import { Preferences } from "../device/preferences.js" */

const YEAR_S = 365 * 86_400;

export class UserSettings {
  #preferences;
  #composer;
  #outbox;

  /** @param {{preferences: Preferences, composer: Composer, outbox: Outbox}} parts */
  constructor({ preferences, composer, outbox }) {
    this.#preferences = preferences;
    this.#composer = composer;
    this.#outbox = outbox;
    this.#offerThemes();
    this.#offerEnterKeys();
    this.#confirmLogOut();
  }

  #offerThemes() {
    const root = document.documentElement;
    for (const radio of findAll("[data-theme-choice] input")) {
      radio.checked = radio.value === (root.dataset.theme ?? "");
      radio.addEventListener("change", () => {
        setAttribute(root, "data-theme", radio.value || null);
        // The server reads the cookie and writes the attribute, so that the next page does not flash.
        document.cookie = `theme=${radio.value}; path=/; max-age=${radio.value ? YEAR_S : 0}; samesite=lax${location.protocol === "https:" ? "; secure" : ""}`;
      });
    }
  }

  #offerEnterKeys() {
    for (const radio of findAll("[data-enter-choice] input")) {
      radio.checked = radio.value === this.#preferences.enterKey;
      radio.addEventListener("change", () => {
        this.#preferences.enterKey = radio.value;
        this.#composer.refresh();
      });
    }
  }

  #confirmLogOut() {
    const form = find("[data-logout]");
    form.addEventListener("submit", async (/** @type {Event} */ event) => {
      if (!this.#outbox.items.size) return;
      event.preventDefault();
      const yes = await confirmAction({
        title: gettext("Log out with unsent messages?"),
        effect: `${phrases.messagesNotSent(this.#outbox.items.size)}. ${gettext("Unsent messages stay on this device until you log in here again.")}`,
        yes: gettext("Log out"),
      });
      if (yes) form.submit();
    });
  }
}
