/** The two bars: the connection above the timeline, the unsent messages above the composer. The first hides the second. */
import { confirmAction } from "./confirm.js";
import { button, el, find, findAll, icon, announce, setAttribute, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import * as phrases from "../phrases.js";

/** @import { Clock } from "../model/protocol.js" */
/** @import { Outbox, OutboxItem } from "../model/outbox.js" */
/** @import { Room } from "../model/room.js" */
/** @import { Socket, SocketState } from "../model/socket.js" */

/**
 * @typedef {{icon: [string, string], head: string, text: string, action?: [string, () => void] | null, state?: string | null}} BarContent
 */

const SHOWN_AFTER_MS = 700; // a shorter reconnect is not worth a bar
const BACK_SHOWN_MS = 2000;
const MIN_COUNTDOWN_S = 5; // a shorter countdown would only flicker

export class StatusBars {
  #socket;
  #outbox;
  #clock;
  #currentRoom;
  #bars = findAll("[data-connection]");
  #notSent = find("[data-not-sent]");
  /** @type {SocketState} */
  #state = { name: "connecting" };
  /** @type {number | null} */
  #lostAt = null;
  #kept = 0; // messages that waited when the connection was lost
  #wasOpen = false;
  #timer = 0;
  #backTimer = 0;
  #announced = false;
  #sendsKept = false; // the connection is back and the kept messages are being sent
  #drawn = "";

  /** @param {{socket: Socket, outbox: Outbox, clock: Clock, currentRoom: () => Room | null}} parts */
  constructor({ socket, outbox, clock, currentRoom }) {
    this.#socket = socket;
    this.#outbox = outbox;
    this.#clock = clock;
    this.#currentRoom = currentRoom;
    find("[data-retry-all]").addEventListener("click", () => this.#forEachFailed((item) => outbox.retry(item.id)));
    find("[data-delete-all]").addEventListener("click", () => this.#deleteAll());
  }

  /** @param {SocketState} state */
  connection(state) {
    this.#state = state;
    if (state.name === "open") this.#back();
    else this.#lostAt ??= this.#clock.now();
    this.#draw();
  }

  #back() {
    const wasShown = this.#announced;
    this.#lostAt = null;
    this.#announced = false;
    this.#wasOpen = true;
    clearTimeout(this.#backTimer);
    if (!wasShown) return this.#hide();
    this.#showBack("");
    this.#sendsKept = this.#kept > 0;
    this.outbox();
  }

  /** @param {string} text */
  #showBack(text) {
    this.#show({ state: "back", icon: ["delivered", "tick"], head: gettext("Connected again."), text });
    clearTimeout(this.#backTimer);
    this.#backTimer = setTimeout(() => this.#hide(), BACK_SHOWN_MS);
  }

  #waiting() {
    return [...this.#outbox.items.values()].filter((item) => item.state === "waiting").length;
  }

  #draw() {
    clearTimeout(this.#timer);
    if (this.#state.name === "open") return;
    if (this.#state.name === "ended") return this.#showEnded(this.#state.why ?? "");
    const waited = this.#clock.now() - (this.#lostAt ?? 0);
    const patience = this.#wasOpen ? SHOWN_AFTER_MS : 3 * SHOWN_AFTER_MS;
    if (waited < patience) {
      this.#timer = setTimeout(() => this.#draw(), patience - waited + 5);
      return;
    }
    clearTimeout(this.#backTimer);
    this.#kept = this.#waiting();
    this.#showLost();
  }

  #showLost() {
    const leftMs = this.#state.name === "waiting" ? (this.#state.retryAt ?? 0) - this.#clock.now() : 0;
    const seconds = Math.ceil(leftMs / 1000);
    const counts = seconds >= MIN_COUNTDOWN_S;
    const sentence = gettext("Your messages are kept and will be sent.");
    const text = counts
      ? fill(gettext("%(kept)s Trying again in %(n)s s."), { kept: sentence, n: seconds })
      : fill(gettext("%(kept)s Trying again…"), { kept: sentence });
    this.#show({
      icon: ["lost", "icon"],
      head: gettext("Connection lost."),
      text,
      action: counts ? [gettext("Try now"), () => this.#socket.wake()] : null,
    });
    if (!this.#announced) announce(`${gettext("Connection lost.")} ${sentence}`);
    this.#announced = true;
    this.#timer = setTimeout(() => this.#draw(), counts ? leftMs % 1000 || 1000 : 1000);
  }

  /** @param {string} why */
  #showEnded(why) {
    /** @type {Record<string, BarContent>} */
    const contents = {
      logged_out: {
        icon: ["private", "icon"],
        head: gettext("You were logged out."),
        text: gettext("Your drafts and unsent messages are kept on this device."),
        action: [gettext("Log in"), () => location.assign(`/accounts/login/?next=${encodeURIComponent(location.pathname)}`)],
      },
      outdated: {
        icon: ["retry", "icon"],
        head: gettext("This page is out of date."),
        text: gettext("Reload to continue. Nothing will be lost."),
        action: [gettext("Reload"), () => location.reload()],
      },
      banned: {
        icon: ["private", "icon"],
        head: gettext("You can no longer use this chat."),
        text: gettext("Your drafts and unsent messages are kept on this device."),
        action: null,
      },
    };
    const content = contents[why];
    this.#show(content);
    if (!this.#announced) announce(`${content.head} ${content.text}`);
    this.#announced = true;
  }

  /** @param {BarContent} content */
  #show({ state = null, icon: [name, kind], head, text, action = null }) {
    const fingerprint = JSON.stringify([state, head, text, action?.[0]]);
    if (fingerprint === this.#drawn) return;
    this.#drawn = fingerprint;
    for (const bar of this.#bars) {
      setAttribute(bar, "data-state", state);
      const old = find("button", bar);
      const keepsButton = old && action && old.textContent === action[0];
      const line = el("p", {}, el("b", {}, head), ` ${text}`);
      if (keepsButton)
        find("p", bar).replaceWith(line); // the button keeps its focus during the countdown
      else bar.replaceChildren(icon(name, kind), line, ...(action ? [button(...action)] : []));
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
    const room = this.#currentRoom();
    return room ? this.#outbox.inRoom(room.id).filter((item) => item.state === "failed") : [];
  }

  /** The outbox or the open room changed. */
  outbox() {
    if (this.#sendsKept && this.#state.name === "open" && this.#waiting() === 0) {
      this.#sendsKept = false;
      const n = this.#kept;
      this.#showBack(fill(ngettext("%(n)s kept message was sent.", "%(n)s kept messages were sent.", n), { n }));
    }
    this.#showNotSent();
  }

  #showNotSent() {
    const failed = this.#failed();
    const lost = this.#state.name !== "open" && this.#announced;
    this.#notSent.hidden = failed.length === 0 || lost;
    if (failed.length) setText(find("p", this.#notSent), phrases.messagesNotSent(failed.length));
  }

  /** @param {(item: OutboxItem) => Promise<void>} action */
  async #forEachFailed(action) {
    for (const item of this.#failed()) await action(item);
  }

  async #deleteAll() {
    const yes = await confirmAction({
      title: gettext("Delete unsent messages?"),
      effect: phrases.messagesNotSent(this.#failed().length),
      yes: gettext("Delete all"),
    });
    if (yes) await this.#forEachFailed((item) => this.#outbox.discard(item.id));
  }
}
