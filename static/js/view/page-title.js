/** The page's title with the count of unread messages, also on the button back to the list of rooms. */
import { find, setAttribute } from "./dom.js";
import { gettext } from "../i18n.js";
import * as phrases from "../phrases.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { Room } from "../model/room.js" */

const MAX_COUNT = 99;

export class PageTitle {
  #chat;
  #currentRoom;

  /** @param {{chat: Chat, currentRoom: () => Room | null}} parts */
  constructor({ chat, currentRoom }) {
    this.#chat = chat;
    this.#currentRoom = currentRoom;
  }

  render() {
    const { unread } = this.#chat;
    const name = this.#currentRoom()?.name;
    const base = name ? `${name} · ${gettext("Chat")}` : gettext("Chat");
    const title = unread ? `(${unread > MAX_COUNT ? `${MAX_COUNT}+` : unread}) ${base}` : base;
    if (document.title !== title) document.title = title;
    setAttribute(
      find("[data-back]"),
      "aria-label",
      unread ? `${gettext("Back to rooms")}, ${phrases.unread(unread)}` : gettext("Back to rooms"),
    );
  }
}
