/**
 * The notices: who never got what, by room and by name, and what is about to expire before somebody has it. A bell with a
 * count, never a pop-up.
 */
import { button, el, fillWith, find, findAll, icon, setAttribute, setText } from "./dom.js";
import { expiringText, othersWhoLack } from "../model/timeline-entries.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { offersExtend } from "../model/delivery-state.js";
import * as words from "../phrases.js";

const NAMES_MOST = 3; // in a headline
const ROOMS_MOST = 5; // of a summary
const LISTED_MOST = 10; // people in sight; a notice may name a hundred

export class Notices {
  #page;
  #list = find("[data-notices]");
  #sheet = find("#notices");
  #nothing = find("[data-nothing]");
  #dismissed = new Set(); // "room|seq|expires_at" of offers that the user has put aside
  #open_groups = new Set();
  #drawn = "";

  /** page: {chat, serverClock, extend(room, message), askLacking(room, seq), lacking(room, seq) -> [{name, reason, attempts}]|null, extensionOf(room, message)}. */
  constructor(page) {
    this.#page = page;
    this.#sheet.addEventListener("toggle", () => this.#toggled());
  }

  #toggled() {
    this.render();
    if (this.#sheet.matches(":popover-open")) return;
    this.#list.replaceChildren(); // an offer shows a text, and none outlives its message in a closed sheet
    this.#drawn = "";
  }

  render() {
    const groups = this.#groups();
    const offers = this.#offers();
    const summaries = [...this.#page.chat.notices.values()].filter(({ kind }) => kind === "summary");
    const count = [...groups.values()].reduce((sum, list) => sum + list.length, 0) + offers.length + summaries.length;
    this.#ring(count);
    if (!this.#sheet.matches(":popover-open")) return;
    const state = ({ notice, data }) => [notice, data.problem, data.resendable, this.#page.chat.isResending(data.room, data.seq)];
    const fingerprint = JSON.stringify([[...groups].map(([room, list]) => [this.#roomName(room), list.map(state)]), offers.map(({ message, title }) => [message.seq, title]), summaries]);
    if (fingerprint === this.#drawn) return;
    this.#drawn = fingerprint;
    this.#nothing.hidden = count > 0;
    const had_focus = this.#list.contains(document.activeElement);
    fillWith(this.#list, offers.map((offer) => this.#offer(offer)), [...groups].map(([room, list]) => (list.length === 1 ? this.#one(list[0]) : this.#group(room, list))), summaries.map((notice) => this.#summary(notice)));
    if (had_focus) find("button", this.#list)?.focus() ?? find(".sheet-head button", this.#sheet).focus();
  }

  #ring(count) {
    for (const bell of findAll("[data-bell]")) {
      const badge = find(".count", bell);
      badge.hidden = count === 0;
      setText(badge, count > 99 ? "99+" : String(count));
      setAttribute(bell, "aria-label", count ? fill(ngettext("Notices, %(n)s new", "Notices, %(n)s new", count), { n: count }) : gettext("Notices"));
    }
  }

  #groups() {
    const groups = new Map();
    const told = [...this.#page.chat.notices.values()].filter(({ kind }) => kind === "undelivered");
    for (const notice of told.sort((a, b) => b.at - a.at)) {
      const room = notice.data.room;
      groups.set(room, [...(groups.get(room) ?? []), notice]);
    }
    return groups;
  }

  #offers() {
    const now = this.#page.serverClock.now();
    const offers = [];
    for (const room of this.#page.chat.rooms.values()) {
      for (const message of room.onTheWay) {
        const receipt = room.receipts.get(message.seq);
        const key = `${room.id}|${message.seq}|${message.expires_at}`;
        if (!offersExtend(message, receipt, now) || this.#dismissed.has(key)) continue;
        this.#page.askLacking(room, message.seq);
        const people = this.#page.lacking(room, message.seq);
        const title = expiringText(message, receipt, people, now);
        offers.push({ room, message, people, others: people ? othersWhoLack(receipt, people) : 0, title, key });
      }
    }
    return offers;
  }

  #roomName(id) {
    return this.#page.chat.rooms.get(id)?.name ?? gettext("A room you have left");
  }

  #one(notice) {
    const { data } = notice;
    return this.#article("undelivered", "missed", headline(data), [
      el("p", { class: "notice-where" }, fill(gettext("%(room)s, sent %(sent)s, expired %(expired)s"), { room: this.#roomName(data.room), sent: this.#when(data.sent_at), expired: this.#when(data.expired_at) })),
      peopleOf(data),
      data.problem && el("p", { class: "field-error" }, words.notResent(data.problem)),
      el("div", { class: "notice-actions" }, data.resendable && this.#resendButton([notice]), button(gettext("Dismiss"), () => this.#page.chat.dismiss(notice.notice))),
    ]);
  }

  #group(room, notices) {
    const people = new Map(notices.flatMap(({ data }) => data.missing.map((one) => [one.user, one.name])));
    const [first] = people.values();
    const others = Math.max(people.size, ...notices.map(({ data }) => data.missing_total)) - 1;
    const values = { n: words.number(notices.length), room: this.#roomName(room), name: first, others: words.number(others) };
    const title = others ? fill(ngettext("%(n)s messages in %(room)s expired before %(name)s and %(others)s other had them", "%(n)s messages in %(room)s expired before %(name)s and %(others)s others had them", others), values) : fill(gettext("%(n)s messages in %(room)s expired before %(name)s had them"), values);
    const resendable = notices.filter(({ data }) => data.resendable);
    const each = el("details", { open: this.#open_groups.has(room) }, el("summary", { class: "notice-where" }, gettext("Each of them")));
    const unfold = () => each.open && each.children.length === 1 && each.append(...notices.map((notice) => this.#one(notice)));
    unfold();
    each.addEventListener("toggle", () => {
      if (each.open) this.#open_groups.add(room);
      else this.#open_groups.delete(room);
      unfold(); // a hundred messages with a hundred names each are made only to be looked at
    });
    return this.#article("undelivered", "missed", title, [
      el("div", { class: "notice-actions" }, resendable.length > 0 && this.#resendButton(resendable), button(gettext("Dismiss all"), () => notices.forEach(({ notice }) => this.#page.chat.dismiss(notice)))),
      each,
    ]);
  }

  /** What was too much to be told one by one. */
  #summary({ notice, data: { messages, from_at, to_at, rooms } }) {
    const most = Object.entries(rooms).sort(([, a], [, b]) => b - a);
    const others = most.length - ROOMS_MOST;
    return this.#article("undelivered", "missed", fill(ngettext("%(n)s older message did not reach everybody", "%(n)s older messages did not reach everybody", messages), { n: words.number(messages) }), [
      el("p", { class: "notice-where" }, fill(gettext("expired between %(from)s and %(to)s"), { from: this.#when(from_at), to: this.#when(to_at) })),
      el("ul", { class: "people" }, most.slice(0, ROOMS_MOST).map(([room, n]) => el("li", {}, el("b", { dir: "auto" }, this.#roomName(room)), el("span", {}, words.number(n)))), others > 0 && andMore(others)),
      el("div", { class: "notice-actions" }, button(gettext("Dismiss"), () => this.#page.chat.dismiss(notice))),
    ]);
  }

  #resendButton(notices) {
    const { chat } = this.#page;
    const busy = notices.every(({ data }) => chat.isResending(data.room, data.seq));
    const total = notices.length === 1 ? notices[0].data.missing_total ?? 0 : 0;
    const text = notices.length > 1 ? gettext("Resend all") : total > notices[0].data.missing.length ? fill(ngettext("Resend to %(n)s", "Resend to %(n)s", total), { n: words.number(total) }) : gettext("Resend to them");
    return button(text, () => notices.forEach(({ data }) => chat.resend(data)), { kind: "primary", disabled: busy });
  }

  #offer({ room, message, people, others, title, key }) {
    const by = words.duration(this.#page.extensionOf(room, message).by);
    return this.#article("expiring", "warning", title, [
      el("p", { class: "notice-where" }, fill(gettext("%(room)s, sent %(sent)s"), { room: room.name, sent: this.#when(message.sent_at) })),
      el("p", { class: "notice-text", dir: "auto" }, message.body.slice(0, 200)),
      people?.length && el("ul", { class: "people" }, people.map((one) => el("li", {}, el("b", { dir: "auto" }, one.name), el("span", {}, words.stillLacks(one)))), others > 0 && andMore(others)),
      el("div", { class: "notice-actions" },
        button(fill(gettext("Extend by %(life)s"), { life: by }), () => this.#page.extend(room, message), { kind: "primary" }),
        button(gettext("Dismiss"), () => {
          this.#dismissed.add(key);
          this.render();
        })),
    ]);
  }

  #article(kind, sign, title, content) {
    const id = `notice-${Notices.#ids++}`;
    return el("article", { class: "notice", "data-kind": kind, "aria-labelledby": id }, icon(sign), el("div", {}, el("h3", { id }, title), content));
  }

  static #ids = 0;

  /** 13:05 today, else with its day. */
  #when(ms) {
    const now = this.#page.serverClock.now();
    return words.isoDay(ms) === words.isoDay(now) ? words.clockTime(ms) : `${words.listWhen(ms, now)} ${words.clockTime(ms)}`;
  }
}

/** Who missed it and why; what is too long to read at once is folded. */
function peopleOf({ missing, missing_total }) {
  const row = (one) => el("li", {}, el("b", { dir: "auto" }, one.name), el("span", {}, words.reasonLong(one)));
  const nameless = missing_total - missing.length;
  const last = nameless > 0 && andMore(nameless);
  const shown = el("ul", { class: "people" }, missing.slice(0, LISTED_MOST).map(row), missing.length <= LISTED_MOST && last);
  if (missing.length <= LISTED_MOST) return shown;
  return [shown, el("details", {}, el("summary", { class: "notice-where" }, more(missing_total - LISTED_MOST)), el("ul", { class: "people" }, missing.slice(LISTED_MOST).map(row), last))];
}

function more(n) {
  return fill(ngettext("and %(n)s more", "and %(n)s more", n), { n: words.number(n) });
}

function andMore(n) {
  return el("li", {}, el("span", {}, more(n)));
}

function headline({ missing, missing_total }) {
  const shown = missing.slice(0, NAMES_MOST).map(({ name }) => name);
  const others = (missing_total ?? missing.length) - shown.length;
  if (others <= 0) return fill(gettext("Never reached %(names)s"), { names: words.names(shown) });
  return fill(ngettext("Never reached %(names)s and %(n)s more", "Never reached %(names)s and %(n)s more", others), { names: words.names(shown, { more: true }), n: words.number(others) });
}
