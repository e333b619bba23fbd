/** The two bars: connection above the timeline, not sent above the composer. The first hides the second. */
import { button, el, find, findAll, icon, live, setAttribute, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import * as words from "../phrases.js";

const SHOWN_AFTER_MS = 700; // a reconnect that is over before a reader has noticed needs no bar
const BACK_MS = 2000;
const COUNT_FROM_S = 5; // under it the seconds would only flicker

export class Bars {
  #page;
  #bars = findAll("[data-connection]");
  #not_sent = find("[data-not-sent]");
  #state = { name: "connecting" };
  #lost_at = null;
  #kept = 0;
  #was_open = false;
  #timer = null;
  #back_timer = null;
  #spoken = false;
  #drains = false; // what was kept is on its way since the connection is back
  #drawn = "";

  /** page: {socket, outbox, clock, currentRoom(), ask(question)}. */
  constructor(page) {
    this.#page = page;
    find("[data-retry-all]").addEventListener("click", () => this.#each((item) => page.outbox.retry(item.id)));
    find("[data-delete-all]").addEventListener("click", () => this.#deleteAll());
  }

  /** state: of the socket. */
  connection(state) {
    this.#state = state;
    if (state.name === "open") this.#back();
    else this.#lost_at ??= this.#page.clock.now();
    this.#draw();
  }

  #back() {
    const was_shown = this.#spoken;
    this.#lost_at = null;
    this.#spoken = false;
    this.#was_open = true;
    clearTimeout(this.#back_timer);
    if (!was_shown) return this.#hide();
    this.#sayBack("");
    this.#drains = this.#kept > 0;
    this.outbox();
  }

  #sayBack(text) {
    this.#say({ state: "back", icon: ["delivered", "tick"], head: gettext("Connected again."), text });
    clearTimeout(this.#back_timer);
    this.#back_timer = setTimeout(() => this.#hide(), BACK_MS);
  }

  #waiting() {
    return [...this.#page.outbox.items.values()].filter((item) => item.state === "waiting").length;
  }

  #draw() {
    clearTimeout(this.#timer);
    if (this.#state.name === "open") return;
    if (this.#state.name === "ended") return this.#ended(this.#state.why);
    const waited = this.#page.clock.now() - this.#lost_at;
    const patience = this.#was_open ? SHOWN_AFTER_MS : 3 * SHOWN_AFTER_MS;
    if (waited < patience) {
      this.#timer = setTimeout(() => this.#draw(), patience - waited + 5);
      return;
    }
    clearTimeout(this.#back_timer);
    this.#kept = this.#waiting();
    this.#lost();
  }

  #lost() {
    const left_ms = this.#state.name === "waiting" ? this.#state.retry_at - this.#page.clock.now() : 0;
    const seconds = Math.ceil(left_ms / 1000);
    const counts = seconds >= COUNT_FROM_S;
    const sentence = gettext("Your messages are kept and will be sent.");
    const text = counts ? fill(gettext("%(kept)s Trying again in %(n)s s."), { kept: sentence, n: seconds }) : fill(gettext("%(kept)s Trying again…"), { kept: sentence });
    this.#say({ icon: ["lost", "icon"], head: gettext("Connection lost."), text, action: counts ? [gettext("Try now"), () => this.#page.socket.wake()] : null });
    if (!this.#spoken) live(`${gettext("Connection lost.")} ${sentence}`);
    this.#spoken = true;
    this.#timer = setTimeout(() => this.#draw(), counts ? left_ms % 1000 || 1000 : 1000);
  }

  #ended(why) {
    const says = {
      logged_out: { icon: ["private", "icon"], head: gettext("You were logged out."), text: gettext("Your drafts and unsent messages are kept on this device."), action: [gettext("Log in"), () => location.assign(`/accounts/login/?next=${encodeURIComponent(location.pathname)}`)] },
      outdated: { icon: ["retry", "icon"], head: gettext("This page is out of date."), text: gettext("Load it again to go on. Nothing is lost."), action: [gettext("Load again"), () => location.reload()] },
      banned: { icon: ["private", "icon"], head: gettext("You may not use this chat any more."), text: gettext("Your drafts and unsent messages are kept on this device."), action: null },
    }[why];
    this.#say(says);
    if (!this.#spoken) live(`${says.head} ${says.text}`);
    this.#spoken = true;
  }

  #say({ state = null, icon: [name, kind], head, text, action = null }) {
    const fingerprint = JSON.stringify([state, head, text, action?.[0]]);
    if (fingerprint === this.#drawn) return;
    this.#drawn = fingerprint;
    for (const bar of this.#bars) {
      setAttribute(bar, "data-state", state);
      const old = find("button", bar);
      const keeps = old && action && old.textContent === action[0];
      const say = el("p", {}, el("b", {}, head), ` ${text}`);
      if (keeps) find("p", bar).replaceWith(say); // the button keeps its focus while the seconds run
      else bar.replaceChildren(icon(name, kind), say, ...(action ? [button(...action)] : []));
      bar.hidden = false;
    }
    this.#showNotSent();
  }

  #hide() {
    this.#drawn = "";
    for (const bar of this.#bars) bar.hidden = true;
    this.#showNotSent();
  }

  // ---- not sent

  #failed() {
    const room = this.#page.currentRoom();
    return room ? this.#page.outbox.inRoom(room.id).filter((item) => item.state === "failed") : [];
  }

  outbox() {
    if (this.#drains && this.#state.name === "open" && this.#waiting() === 0) {
      this.#drains = false;
      const n = this.#kept;
      this.#sayBack(fill(ngettext("%(n)s kept message was sent.", "%(n)s kept messages were sent.", n), { n }));
    }
    this.#showNotSent();
  }

  #showNotSent() {
    const failed = this.#failed();
    const lost = this.#state.name !== "open" && this.#spoken;
    this.#not_sent.hidden = failed.length === 0 || lost;
    if (failed.length) setText(find("p", this.#not_sent), words.messagesNotSent(failed.length));
  }

  async #each(action) {
    for (const item of this.#failed()) await action(item);
  }

  async #deleteAll() {
    const yes = await this.#page.ask({ title: gettext("Delete what was not sent?"), effect: words.messagesNotSent(this.#failed().length), yes: gettext("Delete all") });
    if (yes) await this.#each((item) => this.#page.outbox.discard(item.id));
  }
}
