/** The message details: its times, and each recipient with what is known of them; asked again while it is open. */
import * as api from "../http/api.js";
import { avatar, el, fillWith, find, reach, ring } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { SEGMENTS_MOST, segments } from "../model/delivery-state.js";
import * as words from "../phrases.js";

const AGAIN_MS = 5000;
const ATTEMPTS_MOST = 8;

export class Details {
  #page;
  #sheet = find("#details");
  #place = find("[data-details]");
  #room = null;
  #message = null;
  #answer = null;
  #timer = null;
  #turn = 0;

  /** page: {serverClock}. */
  constructor(page) {
    this.#page = page;
    this.#sheet.addEventListener("toggle", (event) => event.newState === "closed" && this.#closed());
  }

  open(room, message) {
    this.#room = room;
    this.#message = message;
    this.#answer = null;
    this.#sheet.showPopover();
    find(".sheet-head button", this.#sheet).focus(); // and Esc gives it back to the message
    this.#draw();
    this.#ask();
  }

  /** Something about this room's messages changed. */
  refresh(room) {
    if (room !== this.#room || !this.#message) return;
    const now = room.log.messages.get(this.#message.seq);
    if (!now) return this.#sheet.hidePopover();
    this.#message = now;
    this.#ask();
  }

  tick() {
    if (this.#message) this.#draw();
  }

  get isOpen() {
    return this.#message !== null;
  }

  async #ask() {
    clearTimeout(this.#timer);
    const turn = ++this.#turn;
    const answer = await api.recipients(this.#room.id, this.#message.seq).catch((error) => ({ error }));
    if (turn !== this.#turn || !this.#message) return;
    this.#answer = answer;
    this.#draw();
    this.#timer = setTimeout(() => this.#ask(), AGAIN_MS);
  }

  #closed() {
    clearTimeout(this.#timer);
    this.#turn += 1;
    this.#message = null;
    this.#room = null;
    this.#place.replaceChildren(); // no text outlives its message in a closed sheet
  }

  #draw() {
    const message = this.#message;
    const now = this.#page.serverClock.now();
    const left = message.expires_at - now;
    const percent = Math.round(Math.max(0, Math.min(100, (100 * left) / (message.expires_at - message.sent_at))));
    fillWith(this.#place,
      el("p", { class: "details-text", dir: "auto" }, message.body),
      el("dl", { class: "details-facts" },
        el("dt", {}, gettext("Sent")), el("dd", {}, el("time", { datetime: new Date(message.sent_at).toISOString() }, words.clockSeconds(message.sent_at))),
        el("dt", {}, gettext("Expires")), el("dd", {}, el("span", { class: "left" }, ring(percent), el("span", {}, fill(gettext("%(time)s, in %(left)s"), { time: words.clockSeconds(message.expires_at), left: words.remaining(left) }))))),
      this.#recipients(now));
  }

  #recipients(now) {
    const answer = this.#answer;
    if (!answer) return [el("p", { role: "status" }, gettext("Asking who has it…"))];
    if (answer.error) return [el("p", { class: "form-error", role: "status" }, words.refused(answer.error.code))];
    const by = (state) => answer.recipients.filter((one) => one.state === state);
    const counts = { waiting: answer.total - answer.delivered, delivered: answer.delivered - answer.read, read: answer.read };
    const line = answer.total > 0 && answer.total <= SEGMENTS_MOST && reach(segments(answer), "large");
    return [line, ...this.#group(gettext("Still trying"), counts.waiting, by("waiting"), now), ...this.#group(gettext("Delivered"), counts.delivered, by("delivered"), now), ...this.#group(gettext("Read"), counts.read, by("read"), now), answer.total === 0 && el("p", {}, this.#room.tracked ? gettext("Nobody else is to have this message.") : gettext("This room is not tracked: who has this message is not known."))];
  }

  #group(title, count, people, now) {
    if (count <= 0) return [];
    const others = count - people.length;
    return [el("h3", { class: "details-title" }, title, el("span", {}, words.number(count))), el("ul", {}, people.map((one) => this.#person(one, now)), others > 0 && el("li", { class: "recipient" }, el("small", {}, fill(ngettext("and %(n)s more", "and %(n)s more", others), { n: words.number(others) }))))];
  }

  #person(one, now) {
    const online = this.#room.has_presence ? this.#room.online.has(one.user) : null;
    const presence = online === null ? null : online ? "online" : "offline";
    const lacks = one.state === "waiting";
    return el("li", { class: "recipient" }, avatar({ id: one.user, name: one.name }, { presence }), el("b", { dir: "auto" }, one.name), lacks && el("small", {}, stillTrying(one, online)), lacks && this.#next(one, now));
  }

  #next({ attempts, next_at, reason }, now) {
    if (!next_at || !attempts || attempts >= ATTEMPTS_MOST || reason === "client_rejected") return null;
    const seconds = Math.max(0, Math.ceil((next_at - now) / 1000));
    return el("time", { datetime: `PT${seconds}S` }, seconds > 0 ? fill(gettext("next in %(n)s s"), { n: seconds }) : gettext("now"));
  }
}

function stillTrying({ attempts, reason }, online) {
  if (reason === "client_rejected") return gettext("Could not be shown on their device");
  if (reason === "left_room") return gettext("Left the room");
  if (attempts >= ATTEMPTS_MOST) return fill(gettext("No answer after %(n)s tries. Sent again when they answer"), { n: attempts });
  if (attempts > 0) return fill(gettext("No answer, try %(n)s of %(most)s"), { n: attempts, most: ATTEMPTS_MOST });
  return online ? gettext("On its way") : gettext("Offline. Sent as soon as they are back");
}
