/** The user's own name and connection below the list of rooms. */
import { avatar, fillWith, find, setText } from "./dom.js";
import { gettext } from "../i18n.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { SocketState } from "../model/socket.js" */

export class OwnStatus {
  #chat;

  /** @param {{chat: Chat}} parts */
  constructor({ chat }) {
    this.#chat = chat;
  }

  renderName() {
    setText(find("[data-me-name]"), this.#chat.me.name);
  }

  /** @param {SocketState} state */
  renderState({ name }) {
    setText(
      find("[data-me-state]"),
      name === "open" ? gettext("Online") : name === "connecting" ? gettext("Connecting") : gettext("Offline"),
    );
    fillWith(find("[data-me-avatar]"), avatar(this.#chat.me, { presence: name === "open" ? "online" : "offline" }));
  }
}
