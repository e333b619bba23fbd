/** The sheet that creates a room. */
import * as api from "../http/api.js";
import { find, setText } from "./dom.js";
import { fillLifetimes } from "./lifetime-picker.js";
import * as phrases from "../phrases.js";

/** @import { Chat } from "../model/chat.js" */

export class NewRoom {
  #sheet = find("#new-room");
  #form = find("[data-new-room]");
  #error = find("[data-error]", this.#sheet);

  /** @param {{chat: Chat, open: (roomId: string) => void}} parts */
  constructor({ chat, open }) {
    this.#sheet.addEventListener("toggle", (/** @type {any} */ event) => {
      if (event.newState !== "open") return;
      this.#error.hidden = true;
      fillLifetimes(this.#form.elements.ttl, { current: 3600, longest: chat.limits.ttl_max });
      this.#form.elements.name.focus();
    });
    this.#form.addEventListener("submit", async (/** @type {Event} */ event) => {
      event.preventDefault();
      const { name, kind, members, ttl } = this.#form.elements;
      const people = members.value.split(/[\s,，;；]+/).filter(Boolean);
      try {
        const { room } = await api.createRoom({
          name: name.value.trim(),
          kind: kind.value,
          ttl: Number(ttl.value),
          ...(people.length ? { members: people } : {}),
        });
        this.#form.reset();
        this.#sheet.hidePopover();
        open(room);
      } catch (/** @type {any} */ error) {
        this.#error.hidden = false;
        setText(this.#error, phrases.refused(error.code));
      }
    });
  }
}
