/** The actions on a message, run when the user chooses one of them. */
import { confirmAction } from "./confirm.js";
import { announce } from "./dom.js";
import { gettext } from "../i18n.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { Composer } from "./composer.js" */
/** @import { Entry } from "../model/timeline-entries.js" */
/** @import { Message } from "../model/protocol.js" */
/** @import { MessageDetails } from "./message-details.js" */
/** @import { Outbox, OutboxItem } from "../model/outbox.js" */
/** @import { Room } from "../model/room.js" */
/** @import { Timeline } from "./timeline.js" */

export class MessageActions {
  #chat;
  #outbox;
  #timeline;
  #composer;
  #messageDetails;
  #currentRoom;

  /**
   * @param {{
   *   chat: Chat, outbox: Outbox, timeline: Timeline, composer: Composer, messageDetails: MessageDetails,
   *   currentRoom: () => Room | null,
   * }} parts
   */
  constructor({ chat, outbox, timeline, composer, messageDetails, currentRoom }) {
    this.#chat = chat;
    this.#outbox = outbox;
    this.#timeline = timeline;
    this.#composer = composer;
    this.#messageDetails = messageDetails;
    this.#currentRoom = currentRoom;
  }

  /** target: of "show", the seq of a quoted message. @param {string} name @param {Entry & {target?: number}} entry */
  act(name, entry) {
    const room = this.#currentRoom();
    if (!room) return;
    this.#timeline.forgetProblem(entry.seq);
    if (name === "show" && entry.target !== undefined) return this.#timeline.link(entry.target);
    if (entry.tombstone) return name === "resend" && this.#chat.resend(entry.tombstone);
    if (entry.item) return this.#actOnUnsent(name, entry.item);
    const message = room.log.messages.get(entry.seq) ?? entry.message;
    if (message) this.#actOnMessage(name, room, message);
  }

  /** Extend a message by the length of its life. @param {Room} room @param {Message} message */
  extend(room, message) {
    const { by, ttl } = this.#chat.extensionOf(room, message);
    if (room === this.#currentRoom()) this.#timeline.extending(message, by);
    this.#chat.extend(room, message.seq, ttl);
  }

  /** @param {string} name @param {Room} room @param {Message} message */
  #actOnMessage(name, room, message) {
    if (name === "reply") this.#composer.reply(message);
    if (name === "edit") this.#composer.edit(message);
    if (name === "details") this.#messageDetails.open(room, message);
    if (name === "link") this.#copyLink(room, message);
    if (name === "extend") this.extend(room, message);
    if (name === "delete") this.#delete(room, message);
  }

  /** @param {string} name @param {OutboxItem} item */
  async #actOnUnsent(name, item) {
    if (name === "retry") return this.#outbox.retry(item.id);
    await this.#outbox.discard(item.id);
    if (name === "edit") this.#composer.restore(item.body);
    else this.#composer.focus();
  }

  /** @param {Room} room @param {Message} message */
  async #delete(room, message) {
    const yes = await confirmAction({
      title: gettext("Delete this message?"),
      effect: gettext("It will be deleted for everyone in the room."),
      yes: gettext("Delete"),
    });
    if (yes) this.#chat.delete(room, message.seq);
  }

  /** @param {Room} room @param {Message} message */
  async #copyLink(room, message) {
    const address = new URL(`/r/${encodeURIComponent(room.id)}/${message.seq}/`, location.href).href;
    const copied = await navigator.clipboard?.writeText(address).then(
      () => true,
      () => false,
    );
    if (copied) announce(gettext("Link copied"));
    else history.replaceState(null, "", address); // without a clipboard the address bar shows it
  }
}
