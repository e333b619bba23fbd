/**
 * Shortening what is already in a room: a step of its own beside the lifetime of new messages. First the server counts, then
 * whoever has seen the count says yes.
 */
import * as api from "../http/api.js";
import { find, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { fillLifetimes } from "./lifetime-picker.js";
import * as words from "../phrases.js";

export class Shorten {
  #form = find("[data-shorten]");
  #found = find("[data-found]", this.#form);
  #look = find("[data-look]", this.#form);
  #yes = find("[data-yes]", this.#form);
  #no = find("[data-no]", this.#form);
  #failed;
  #room = null;
  #turn = 0; // what an answer belongs to: the room or the choice may be another one by then

  /** failed(error|null): what the server refused. */
  constructor({ failed }) {
    this.#failed = failed;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#count();
    });
    this.#form.elements.ttl.addEventListener("change", () => this.#begin());
    this.#yes.addEventListener("click", () => this.#do());
    this.#no.addEventListener("click", () => {
      this.#begin();
      this.#look.focus();
    });
  }

  set hidden(is) {
    this.#form.hidden = is;
  }

  /** longest: in seconds. */
  open(room, longest) {
    this.#room = room;
    fillLifetimes(this.#form.elements.ttl, { current: room.ttl, longest });
    this.#begin();
  }

  get #ttl() {
    return Number(this.#form.elements.ttl.value);
  }

  #begin() {
    this.#turn += 1;
    this.#say("");
    this.#offer(0);
  }

  async #count() {
    const found = await this.#ask(true);
    if (!found) return;
    if (found.shortened === 0) return this.#say(gettext("No message there would end sooner."));
    this.#say(words.sentences(words.wouldShorten(found), gettext("Whoever misses one because of it is named to its sender.")));
    this.#offer(found.shortened);
    this.#no.focus(); // what cannot be undone is not where Enter was just pressed
  }

  async #do() {
    const done = await this.#ask(false);
    if (!done) return;
    this.#say(words.hasShortened(done));
    this.#offer(0);
    this.#look.focus();
  }

  /** The server's answer, null when it refused or nobody waits for it any more. */
  async #ask(dry_run) {
    const turn = ++this.#turn;
    this.#failed(null);
    try {
      const answer = await api.shorten(this.#room.id, { ttl: this.#ttl, dry_run });
      return turn === this.#turn ? answer : null;
    } catch (error) {
      if (turn === this.#turn) this.#failed(error);
      return null;
    }
  }

  #offer(n) {
    this.#look.hidden = n > 0;
    this.#yes.hidden = this.#no.hidden = n === 0;
    setText(this.#yes, fill(ngettext("Shorten %(n)s message", "Shorten %(n)s messages", n), { n: words.number(n) }));
  }

  #say(text) {
    this.#found.hidden = !text;
    setText(this.#found, text);
  }
}
