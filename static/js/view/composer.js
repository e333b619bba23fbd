/**
 * Where a message is written: keys, drafts, length, reply and edit. The text leaves the box only when the device's outbox
 * holds it.
 */
import { find, live, setAttribute, setIcon, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { cleanBody, codePoints } from "../model/protocol.js";
import * as words from "../phrases.js";

const COUNT_FROM = 200; // code points left when the counter appears
const IME_KEY = 229; // what old browsers report for a key that the input method took

export class Composer {
  #page;
  #lifetime;
  #keep;
  #room = null;
  #context = null; // {kind: "reply"|"edit", message}
  #form = find("[data-composer]");
  #text = find("#message-text");
  #label = find('label[for="message-text"]');
  #hint = find("#message-hint");
  #count = find("[data-count]", this.#form);
  #send = find(".send", this.#form);
  #quote = find("[data-context]", this.#form);
  #closed = find("[data-closed]");

  /** page: {chat, send({room, body, ttl, reply_to, life_s}) -> Promise, lastOwn() -> message|null, edited(message)}. */
  constructor({ page, lifetime, keep }) {
    this.#page = page;
    this.#lifetime = lifetime;
    this.#keep = keep;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#text.addEventListener("input", () => this.#typed());
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    find("[data-cancel]", this.#quote).addEventListener("click", () => this.#cancel());
  }

  open(room) {
    this.#saveDraft();
    this.#room = room;
    this.#context = null;
    this.#text.value = this.#keep.draft(room.id);
    this.refresh();
  }

  /** The room's name, lifetime or membership changed. */
  refresh() {
    const room = this.#room;
    if (!room) return;
    this.#form.hidden = room.left;
    this.#closed.hidden = !room.left;
    this.#lifetime.show(room, this.#page.chat.limits);
    this.#describe();
    this.#measure();
  }

  focus() {
    this.#text.focus({ preventScroll: true });
  }

  reply(message) {
    this.#set({ kind: "reply", message });
  }

  edit(message) {
    if (this.#context?.kind !== "edit") this.#saveDraft();
    this.#text.value = message.body;
    this.#set({ kind: "edit", message });
    this.#text.setSelectionRange(message.body.length, message.body.length);
  }

  /** Take back the text of one that was not sent. */
  take(body) {
    this.#text.value = body;
    this.#set(null);
    this.#saveDraft();
  }

  /** An edit was refused: its text is not lost while nothing else is being written. */
  giveBack(room, body) {
    if (room !== this.#room || this.#context || this.#text.value) return;
    this.#text.value = body;
    this.#measure();
    this.#saveDraft();
  }

  /** These messages are over: none of them is answered, edited or quoted any more. */
  ended(messages) {
    const about = this.#context?.message;
    if (!about || !messages.some(({ seq }) => seq === about.seq)) return;
    const had_focus = this.#form.contains(document.activeElement);
    if (this.#context.kind === "edit") this.#text.value = this.#keep.draft(this.#room.id);
    this.#context = null;
    this.#describe();
    this.#measure();
    live(gettext("This message is gone"));
    if (had_focus) this.focus();
  }

  #set(context) {
    this.#context = context;
    this.#describe();
    this.#measure();
    this.focus();
  }

  #cancel() {
    if (this.#context?.kind === "edit") this.#text.value = this.#keep.draft(this.#room.id);
    this.#set(null);
  }

  #describe() {
    const { name } = this.#room;
    const context = this.#context;
    const author = context?.message.from?.name ?? "";
    const own = context?.message.from?.id === this.#page.chat.me.id;
    const whom = own ? gettext("yourself") : author;
    const label = context?.kind === "reply" ? fill(gettext("Reply to %(name)s"), { name: whom }) : fill(gettext("Message to %(name)s"), { name });
    setText(this.#label, label);
    setAttribute(this.#text, "placeholder", label);
    this.#quote.hidden = !context;
    setIcon(this.#send, context?.kind === "edit" ? "sent" : "send");
    setAttribute(find("svg", this.#send), "class", context?.kind === "edit" ? "tick" : "icon");
    setAttribute(this.#send, "aria-label", context?.kind === "edit" ? gettext("Save") : gettext("Send"));
    if (!context) for (const place of [find("b", this.#quote), find(".quote span", this.#quote)]) setText(place, "");
    if (context) {
      setText(find("b", this.#quote), context.kind === "edit" ? gettext("Editing") : fill(gettext("Replying to %(name)s"), { name: whom }));
      setText(find(".quote span", this.#quote), context.message.body);
      setAttribute(find("[data-cancel]", this.#quote), "aria-label", context.kind === "edit" ? gettext("Stop editing") : gettext("Cancel the reply"));
    }
    const keys = this.#entersNewline ? gettext("Ctrl+Enter sends, Enter starts a new line") : gettext("Enter sends, Shift+Enter starts a new line");
    setText(this.#hint, context ? gettext("Esc cancels") : keys);
  }

  get #entersNewline() {
    return this.#keep.get("enter") === "newline";
  }

  #typed() {
    this.#measure();
    if (this.#context?.kind !== "edit") this.#saveDraft();
    if (this.#text.value.trim()) this.#page.chat.typing(this.#room.id);
  }

  #measure() {
    const length = codePoints(cleanBody(this.#text.value));
    const left = this.#page.chat.limits.body - length;
    this.#count.hidden = left > COUNT_FROM;
    setAttribute(this.#count, "data-state", left < 0 ? "over" : null);
    setText(this.#count, left < 0 ? fill(ngettext("%(n)s too many", "%(n)s too many", -left), { n: words.number(-left) }) : fill(ngettext("%(n)s left", "%(n)s left", left), { n: words.number(left) }));
    this.#send.disabled = length === 0 || left < 0;
  }

  #saveDraft() {
    if (this.#room && this.#context?.kind !== "edit") this.#keep.setDraft(this.#room.id, this.#text.value);
  }

  #key(event) {
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

  #editLast(event) {
    const message = this.#page.lastOwn();
    if (!message) return;
    event.preventDefault();
    this.edit(message);
  }

  async #submit() {
    const body = cleanBody(this.#text.value);
    if (!body || codePoints(body) > this.#page.chat.limits.body) return;
    const context = this.#context;
    if (context?.kind === "edit") return this.#save(context.message, body);
    const room = this.#room;
    const sending = { room: room.id, body, ttl: this.#lifetime.ttl, reply_to: context?.message.seq ?? null, life_s: this.#lifetime.life };
    this.#text.value = "";
    this.#context = null;
    this.#lifetime.reset();
    this.#describe();
    this.#measure();
    try {
      await this.#page.send(sending);
    } catch {
      // The device refused to keep it: the text goes back to its writer.
      if (!this.#text.value) this.#text.value = body;
      this.#measure();
      return;
    }
    if (room === this.#room) this.#saveDraft();
    else this.#keep.setDraft(room.id, "");
  }

  #save(message, body) {
    this.#text.value = this.#keep.draft(this.#room.id);
    this.#set(null);
    if (body === message.body) return;
    this.#page.edited(message, body);
  }
}
