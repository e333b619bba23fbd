/** The message details: its times and the state of each recipient, loaded again while they are open. */
import * as api from "../http/api.js";
import { avatar, el, fillWith, find, reach, ring } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { MAX_SEGMENTS, segments } from "../model/delivery-state.js";
import * as phrases from "../phrases.js";

/** @import { Message } from "../model/protocol.js" */
/** @import { Recipient, Recipients } from "../http/api.js" */
/** @import { Room } from "../model/room.js" */
/** @import { ServerClock } from "../model/server-clock.js" */

const RELOAD_MS = 5000;
const MAX_ATTEMPTS = 8;

export class MessageDetails {
  #serverClock;
  #sheet = find("#details");
  #place = find("[data-details]");
  /** @type {Room | null} */
  #room = null;
  /** @type {Message | null} */
  #message = null;
  /** @type {{recipients: Recipients} | {error: any} | null} */
  #answer = null;
  #timer = 0;
  #requests = 0;

  /** @param {{serverClock: ServerClock}} parts */
  constructor({ serverClock }) {
    this.#serverClock = serverClock;
    this.#sheet.addEventListener("toggle", (/** @type {any} */ event) => event.newState === "closed" && this.#closed());
  }

  /** @param {Room} room @param {Message} message */
  open(room, message) {
    this.#room = room;
    this.#message = message;
    this.#answer = null;
    this.#sheet.showPopover();
    find(".sheet-head button", this.#sheet).focus(); // Esc returns the focus to the message
    this.#draw();
    this.#load();
  }

  /** Messages or receipts of this room changed. @param {Room} room */
  refresh(room) {
    if (room !== this.#room || !this.#message) return;
    const message = room.log.messages.get(this.#message.seq);
    if (!message) return this.#sheet.hidePopover();
    this.#message = message;
    this.#load();
  }

  tick() {
    this.#draw();
  }

  get isOpen() {
    return this.#message !== null;
  }

  async #load() {
    clearTimeout(this.#timer);
    if (!this.#room || !this.#message) return;
    const request = ++this.#requests;
    const answer = await api.recipients(this.#room.id, this.#message.seq).then(
      (recipients) => ({ recipients }),
      (error) => ({ error }),
    );
    if (request !== this.#requests || !this.#message) return;
    this.#answer = answer;
    this.#draw();
    this.#timer = setTimeout(() => this.#load(), RELOAD_MS);
  }

  #closed() {
    clearTimeout(this.#timer);
    this.#requests += 1;
    this.#message = null;
    this.#room = null;
    this.#place.replaceChildren(); // a closed sheet keeps no text, which would outlive its message
  }

  #draw() {
    const room = this.#room;
    const message = this.#message;
    if (!room || !message) return;
    const now = this.#serverClock.now();
    const left = message.expires_at - now;
    const percent = Math.round(Math.max(0, Math.min(100, (100 * left) / (message.expires_at - message.sent_at))));
    fillWith(
      this.#place,
      el("p", { class: "details-text", dir: "auto" }, message.body),
      el(
        "dl",
        { class: "details-facts" },
        el("dt", {}, gettext("Sent")),
        el("dd", {}, el("time", { datetime: new Date(message.sent_at).toISOString() }, phrases.clockSeconds(message.sent_at))),
        el("dt", {}, gettext("Expires")),
        el(
          "dd",
          {},
          el(
            "span",
            { class: "left" },
            ring(percent),
            el(
              "span",
              {},
              fill(gettext("%(time)s, in %(left)s"), { time: phrases.clockSeconds(message.expires_at), left: phrases.remaining(left) }),
            ),
          ),
        ),
      ),
      this.#recipients(room, now),
    );
  }

  /** @param {Room} room @param {number} now */
  #recipients(room, now) {
    const answer = this.#answer;
    if (!answer) return [el("p", { role: "status" }, gettext("Checking who received it…"))];
    if ("error" in answer) return [el("p", { class: "form-error", role: "status" }, phrases.refused(answer.error.code))];
    const { total, delivered, read } = answer.recipients;
    const group = (/** @type {string} */ title, /** @type {string} */ state, /** @type {number} */ count) =>
      this.#group(
        title,
        count,
        answer.recipients.recipients.filter((recipient) => recipient.state === state),
        room,
        now,
      );
    return [
      total > 0 && total <= MAX_SEGMENTS && reach(segments(answer.recipients), "large"),
      ...group(gettext("Still trying"), "waiting", total - delivered),
      ...group(gettext("Delivered"), "delivered", delivered - read),
      ...group(gettext("Read"), "read", read),
      total === 0 &&
        el(
          "p",
          {},
          room.tracked
            ? gettext("There are no other recipients.")
            : gettext("This room is not tracked, so it is not known who received this message."),
        ),
    ];
  }

  /** @param {string} title @param {number} count @param {Recipient[]} people @param {Room} room @param {number} now */
  #group(title, count, people, room, now) {
    if (count <= 0) return [];
    const others = count - people.length;
    return [
      el("h3", { class: "details-title" }, title, el("span", {}, phrases.number(count))),
      el(
        "ul",
        {},
        people.map((recipient) => this.#person(recipient, room, now)),
        others > 0 &&
          el(
            "li",
            { class: "recipient" },
            el("small", {}, fill(ngettext("and %(n)s more", "and %(n)s more", others), { n: phrases.number(others) })),
          ),
      ),
    ];
  }

  /** @param {Recipient} recipient @param {Room} room @param {number} now */
  #person(recipient, room, now) {
    const { user, name, state } = recipient;
    const online = room.hasPresence ? room.online.has(user) : null;
    const presence = online === null ? null : online ? "online" : "offline";
    const waiting = state === "waiting";
    return el(
      "li",
      { class: "recipient" },
      avatar({ id: user, name }, { presence }),
      el("b", { dir: "auto" }, name),
      waiting && el("small", {}, stillTrying(recipient, online)),
      waiting && this.#next(recipient, now),
    );
  }

  /** @param {Recipient} recipient @param {number} now */
  #next({ attempts, next_at, reason }, now) {
    if (!next_at || !attempts || attempts >= MAX_ATTEMPTS || reason === "client_rejected") return null;
    const seconds = Math.max(0, Math.ceil((next_at - now) / 1000));
    return el("time", { datetime: `PT${seconds}S` }, seconds > 0 ? fill(gettext("next in %(n)s s"), { n: seconds }) : gettext("now"));
  }
}

/** @param {Recipient} recipient @param {boolean | null} online */
function stillTrying({ attempts, reason }, online) {
  if (reason === "client_rejected") return gettext("Their device could not show it");
  if (reason === "left_room") return gettext("Left the room");
  const attempted = attempts ?? 0;
  if (attempted >= MAX_ATTEMPTS)
    return fill(gettext("No answer after %(n)s tries. Will be sent again when they respond"), { n: attempted });
  if (attempted > 0) return fill(gettext("No answer, try %(n)s of %(most)s"), { n: attempted, most: MAX_ATTEMPTS });
  return online ? gettext("On its way") : gettext("Offline. Will be sent when they reconnect");
}
