/**
 * The message box: keys, drafts, length, reply and edit. The draft is deleted only when the outbox has stored the message.
 */
import { find, announce, setAttribute, setIcon, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { cleanBody, codePoints } from "../model/protocol.js";
import * as phrases from "../phrases.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { LifetimePicker } from "./lifetime-picker.js" */
/** @import { Message } from "../model/protocol.js" */
/** @import { NewMessage } from "../model/outbox.js" */
/** @import { Preferences } from "../device/preferences.js" */
/** @import { Room } from "../model/room.js" */

/** @typedef {{kind: "reply" | "edit", message: Message}} Context */

const COUNT_FROM = 200; // the counter appears when this many code points are left
const IME_KEY = 229; // the keyCode that old browsers report for a key of an input method

export class Composer {
  #chat;
  #lifetime;
  #preferences;
  #sendMessage;
  /** @type {Room | null} */
  #room = null;
  /** @type {Context | null} */
  #context = null;
  #form = find("[data-composer]");
  #text = find("#message-text");
  #label = find('label[for="message-text"]');
  #hint = find("#message-hint");
  #count = find("[data-count]", this.#form);
  #sendButton = find(".send", this.#form);
  #quote = find("[data-context]", this.#form);
  #closed = find("[data-closed]");

  /**
   * send(message): resolves when the outbox has stored it.
   *
   * @param {{chat: Chat, lifetime: LifetimePicker, preferences: Preferences, send: (message: NewMessage) => Promise<any>}} parts
   */
  constructor({ chat, lifetime, preferences, send }) {
    this.#chat = chat;
    this.#lifetime = lifetime;
    this.#preferences = preferences;
    this.#sendMessage = send;
    this.#form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#text.addEventListener("input", () => this.#typed());
    this.#text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#handleKey(event));
    find("[data-cancel]", this.#quote).addEventListener("click", () => this.#cancel());
  }

  /** @param {Room} room */
  open(room) {
    this.#saveDraft();
    this.#room = room;
    this.#context = null;
    this.#text.value = this.#preferences.draft(room.id);
    this.refresh();
  }

  /** The room's name, lifetime or membership changed. */
  refresh() {
    const room = this.#room;
    if (!room) return;
    this.#form.hidden = room.left;
    this.#closed.hidden = !room.left;
    this.#lifetime.show(room, this.#chat.limits);
    this.#renderContext();
    this.#renderCount();
  }

  focus() {
    this.#text.focus({ preventScroll: true });
  }

  /** @param {Message} message */
  reply(message) {
    this.#setContext({ kind: "reply", message });
  }

  /** @param {Message} message */
  edit(message) {
    if (this.#context?.kind !== "edit") this.#saveDraft();
    this.#text.value = message.body;
    this.#setContext({ kind: "edit", message });
    this.#text.setSelectionRange(message.body.length, message.body.length);
  }

  /** Put back the text of an unsent message. @param {string} body */
  restore(body) {
    this.#text.value = body;
    this.#setContext(null);
    this.#saveDraft();
  }

  /**
   * An edit was refused: put its text back, unless the user is writing something else.
   *
   * @param {Room} room
   * @param {string} body
   */
  giveBack(room, body) {
    if (room !== this.#room || this.#context || this.#text.value) return;
    this.#text.value = body;
    this.#renderCount();
    this.#saveDraft();
  }

  /** These messages have ended: a reply to one of them, or its edit, is cancelled. @param {Message[]} messages */
  ended(messages) {
    const context = this.#context;
    if (!context || !messages.some(({ seq }) => seq === context.message.seq)) return;
    const hadFocus = this.#form.contains(document.activeElement);
    if (context.kind === "edit") this.#loadDraft();
    this.#context = null;
    this.#renderContext();
    this.#renderCount();
    announce(gettext("This message no longer exists"));
    if (hadFocus) this.focus();
  }

  /** @param {Context | null} context */
  #setContext(context) {
    this.#context = context;
    this.#renderContext();
    this.#renderCount();
    this.focus();
  }

  #cancel() {
    if (this.#context?.kind === "edit") this.#loadDraft();
    this.#setContext(null);
  }

  #renderContext() {
    const context = this.#context;
    const author = context?.message.from?.name ?? "";
    const own = context?.message.from?.id === this.#chat.me.id;
    const recipient = own ? gettext("yourself") : author;
    const label =
      context?.kind === "reply"
        ? fill(gettext("Reply to %(name)s"), { name: recipient })
        : fill(gettext("Message to %(name)s"), { name: this.#room?.name ?? "" });
    setText(this.#label, label);
    setAttribute(this.#text, "placeholder", label);
    this.#quote.hidden = !context;
    setIcon(this.#sendButton, context?.kind === "edit" ? "sent" : "send");
    setAttribute(find("svg", this.#sendButton), "class", context?.kind === "edit" ? "tick" : "icon");
    setAttribute(this.#sendButton, "aria-label", context?.kind === "edit" ? gettext("Save") : gettext("Send"));
    if (!context) for (const place of [find("b", this.#quote), find(".quote span", this.#quote)]) setText(place, "");
    if (context) {
      setText(
        find("b", this.#quote),
        context.kind === "edit" ? gettext("Editing") : fill(gettext("Replying to %(name)s"), { name: recipient }),
      );
      setText(find(".quote span", this.#quote), context.message.body);
      setAttribute(
        find("[data-cancel]", this.#quote),
        "aria-label",
        context.kind === "edit" ? gettext("Stop editing") : gettext("Cancel the reply"),
      );
    }
    const keys = this.#entersNewline
      ? gettext("Ctrl+Enter sends, Enter starts a new line")
      : gettext("Enter sends, Shift+Enter starts a new line");
    setText(this.#hint, context ? gettext("Esc cancels") : keys);
  }

  get #entersNewline() {
    return this.#preferences.enterKey === "newline";
  }

  #typed() {
    this.#renderCount();
    if (this.#context?.kind !== "edit") this.#saveDraft();
    if (this.#room && this.#text.value.trim()) this.#chat.typing(this.#room.id);
  }

  #renderCount() {
    const length = codePoints(cleanBody(this.#text.value));
    const left = this.#chat.limits.body - length;
    this.#count.hidden = left > COUNT_FROM;
    setAttribute(this.#count, "data-state", left < 0 ? "over" : null);
    setText(
      this.#count,
      left < 0
        ? fill(ngettext("%(n)s character too many", "%(n)s characters too many", -left), { n: phrases.number(-left) })
        : fill(ngettext("%(n)s character left", "%(n)s characters left", left), { n: phrases.number(left) }),
    );
    this.#sendButton.disabled = length === 0 || left < 0;
  }

  #loadDraft() {
    if (this.#room) this.#text.value = this.#preferences.draft(this.#room.id);
  }

  #saveDraft() {
    if (this.#room && this.#context?.kind !== "edit") this.#preferences.setDraft(this.#room.id, this.#text.value);
  }

  /** @param {KeyboardEvent} event */
  #handleKey(event) {
    if (event.isComposing || event.keyCode === IME_KEY) return;
    if (event.key === "Escape" && this.#context) {
      event.preventDefault();
      return this.#cancel();
    }
    if (event.key === "ArrowUp" && this.#text.value === "" && !this.#context) return this.#editLast(event);
    if (event.key !== "Enter" || event.altKey) return;
    const sends = this.#entersNewline ? event.ctrlKey || event.metaKey : !event.shiftKey;
    if (!sends) return;
    event.preventDefault();
    this.#submit();
  }

  /** @param {KeyboardEvent} event */
  #editLast(event) {
    const message = this.#room?.lastOwn;
    if (!message) return;
    event.preventDefault();
    this.edit(message);
  }

  async #submit() {
    const body = cleanBody(this.#text.value);
    if (!body || codePoints(body) > this.#chat.limits.body) return;
    const context = this.#context;
    const room = this.#room;
    if (!room) return;
    if (context?.kind === "edit") return this.#saveEdit(room, context.message, body);
    const message = { room: room.id, body, ttl: this.#lifetime.ttl, reply_to: context?.message.seq ?? null, life_s: this.#lifetime.life };
    this.#text.value = "";
    this.#context = null;
    this.#lifetime.reset();
    this.#renderContext();
    this.#renderCount();
    try {
      await this.#sendMessage(message);
    } catch {
      // The outbox did not add it: the text is put back. In another room the draft remains.
      if (room === this.#room && !this.#text.value) this.#text.value = body;
      this.#renderCount();
      return;
    }
    if (room === this.#room) this.#saveDraft();
    else this.#preferences.setDraft(room.id, "");
  }

  /** @param {Room} room @param {Message} message @param {string} body */
  #saveEdit(room, message, body) {
    this.#loadDraft();
    this.#setContext(null);
    if (body !== message.body) this.#chat.edit(room, message.seq, body);
  }
}
