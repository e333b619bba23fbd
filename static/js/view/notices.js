/**
 * The notices: the messages that did not reach everyone, by room and with names, and the messages that are about to expire
 * while they are undelivered. A bell with a count, never a pop-up.
 */
import { button, el, fillWith, find, findAll, icon, setAttribute, setText } from "./dom.js";
import { MAX_REPEATED } from "../model/chat.js";
import { expiringText, unnamed } from "../model/timeline-entries.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { offersExtend } from "../model/delivery-state.js";
import * as api from "../http/api.js";
import * as phrases from "../phrases.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { Frame, Message } from "../model/protocol.js" */
/** @import { Missed } from "../model/tombstones.js" */
/** @import { Recipient } from "../http/api.js" */
/** @import { Room } from "../model/room.js" */
/** @import { RoomDetails } from "../http/room-details.js" */
/** @import { ServerClock } from "../model/server-clock.js" */

/**
 * An offer to extend a message. others: how many recipients are not named in people.
 *
 * @typedef {{room: Room, message: Message, people: Recipient[] | null, others: number, title: string, key: string}} Offer
 * @typedef {{missing: Missed[], missing_total?: number}} MissingList
 */

const MAX_NAMES = 3; // in a headline
const MAX_ROOMS = 5; // in a summary
const MAX_LISTED = 10; // names shown at once; a notice may have a hundred
const MAX_COUNT = 99; // on the bell
const MISSING_PAGE = 200; // members that the server names at once

export class Notices {
  #chat;
  #serverClock;
  #roomDetails;
  #extend;
  #list = find("[data-notices]");
  #sheet = find("#notices");
  #nothing = find("[data-nothing]");
  /** @type {Set<string>} */
  #dismissed = new Set(); // keys of the offers that the user has dismissed
  /** @type {Set<string>} */
  #openGroups = new Set(); // room ids
  #drawn = "";
  /** @type {string | null | undefined} */
  #older; // `before` of the next page of older notices; null: there is none

  /**
   * @param {{
   *   chat: Chat, serverClock: ServerClock, roomDetails: Pick<RoomDetails, "undelivered" | "loadUndelivered">,
   *   extend: (room: Room, message: Message) => void,
   * }} parts
   */
  constructor({ chat, serverClock, roomDetails, extend }) {
    this.#chat = chat;
    this.#serverClock = serverClock;
    this.#roomDetails = roomDetails;
    this.#extend = extend;
    this.#sheet.addEventListener("toggle", () => this.#toggled());
  }

  #toggled() {
    this.render();
    if (this.#sheet.matches(":popover-open")) return;
    this.#list.replaceChildren(); // a closed sheet keeps no text, which would outlive its message
    this.#drawn = "";
  }

  render() {
    const groups = this.#groups();
    const offers = this.#offers();
    const summaries = [...this.#chat.notices.values()].filter(({ kind }) => kind === "summary");
    const count = [...groups.values()].reduce((sum, list) => sum + list.length, 0) + offers.length + summaries.length;
    this.#renderBells(count);
    if (!this.#sheet.matches(":popover-open")) return;
    const stateOf = (/** @type {Frame} */ { notice, data }) => [
      notice,
      data.problem,
      data.resendable,
      this.#chat.isResending(data.room, data.seq),
    ];
    const fingerprint = JSON.stringify([
      [...groups].map(([room, list]) => [this.#roomName(room), list.map(stateOf)]),
      offers.map(({ message, title }) => [message.seq, title]),
      summaries,
      this.#older,
    ]);
    if (fingerprint === this.#drawn) return;
    this.#drawn = fingerprint;
    this.#nothing.hidden = count > 0;
    const hadFocus = this.#list.contains(document.activeElement);
    fillWith(
      this.#list,
      offers.map((offer) => this.#offer(offer)),
      [...groups].map(([room, list]) => (list.length === 1 ? this.#undelivered(list[0]) : this.#group(room, list))),
      summaries.map((notice) => this.#summary(notice)),
      this.#mayHaveOlder() && loader(gettext("Show earlier notices"), () => this.#loadOlder()),
    );
    if (hadFocus) find("button", this.#list)?.focus() ?? find(".sheet-head button", this.#sheet).focus();
  }

  #mayHaveOlder() {
    return this.#older !== null && [...this.#chat.notices.values()].filter(({ kind }) => kind === "undelivered").length >= MAX_REPEATED;
  }

  async #loadOlder() {
    this.#older ??= (await api.notices()).next; // the first page was sent by the socket
    if (this.#older) {
      const { notices, next } = await api.notices(this.#older);
      this.#older = next;
      this.#chat.addNotices(notices);
    }
    this.render();
  }

  /** @param {number} count */
  #renderBells(count) {
    for (const bell of findAll("[data-bell]")) {
      const badge = find(".count", bell);
      badge.hidden = count === 0;
      setText(badge, count > MAX_COUNT ? `${MAX_COUNT}+` : String(count));
      setAttribute(bell, "aria-label", count ? fill(ngettext("%(n)s notice", "%(n)s notices", count), { n: count }) : gettext("Notices"));
    }
  }

  /** The undelivered messages by room, the newest notice first. */
  #groups() {
    /** @type {Map<string, Frame[]>} */
    const groups = new Map();
    const undelivered = [...this.#chat.notices.values()].filter(({ kind }) => kind === "undelivered");
    for (const notice of undelivered.sort((a, b) => b.at - a.at)) {
      const room = notice.data.room;
      groups.set(room, [...(groups.get(room) ?? []), notice]);
    }
    return groups;
  }

  #offers() {
    const now = this.#serverClock.now();
    /** @type {Offer[]} */
    const offers = [];
    for (const room of this.#chat.rooms.values()) {
      for (const message of room.onTheWay) {
        const receipt = room.receipts.get(message.seq);
        const key = `${room.id}|${message.seq}|${message.expires_at}`;
        if (!offersExtend(message, receipt, now) || this.#dismissed.has(key)) continue;
        this.#roomDetails.loadUndelivered(room, message.seq);
        const people = this.#roomDetails.undelivered(room, message.seq);
        const title = expiringText(message, receipt, people, now);
        offers.push({ room, message, people, others: people ? unnamed(receipt, people) : 0, title, key });
      }
    }
    return offers;
  }

  /** @param {string} id */
  #roomName(id) {
    return this.#chat.rooms.get(id)?.name ?? gettext("A room you have left");
  }

  /** @param {Frame} notice */
  #undelivered(notice) {
    const { data } = notice;
    return this.#article("undelivered", "missed", headline(data), [
      el(
        "p",
        { class: "notice-where" },
        fill(gettext("%(room)s, sent %(sent)s, expired %(expired)s"), {
          room: this.#roomName(data.room),
          sent: this.#when(data.sent_at),
          expired: this.#when(data.expired_at),
        }),
      ),
      missingPeople(notice),
      data.problem && el("p", { class: "field-error" }, phrases.notResent(data.problem)),
      el(
        "div",
        { class: "notice-actions" },
        data.resendable && this.#resendButton([notice]),
        button(gettext("Dismiss"), () => this.#chat.dismiss(notice.notice)),
      ),
    ]);
  }

  /** @param {string} room @param {Frame[]} notices */
  #group(room, notices) {
    const people = new Map(
      notices.flatMap(({ data }) =>
        data.missing.map((/** @type {Missed} */ { user, name }) => /** @type {[number, string]} */ ([user, name])),
      ),
    );
    const [first] = people.values();
    const others = Math.max(people.size, ...notices.map(({ data }) => data.missing_total)) - 1;
    const values = { n: phrases.number(notices.length), room: this.#roomName(room), name: first, others: phrases.number(others) };
    const title = others
      ? fill(
          ngettext(
            "%(n)s messages in “%(room)s” expired before %(name)s and %(others)s other received them",
            "%(n)s messages in “%(room)s” expired before %(name)s and %(others)s others received them",
            others,
          ),
          values,
        )
      : fill(gettext("%(n)s messages in “%(room)s” expired before %(name)s received them"), values);
    const resendable = notices.filter(({ data }) => data.resendable);
    const list = el("details", { open: this.#openGroups.has(room) }, el("summary", { class: "notice-where" }, gettext("Show each")));
    const unfold = () => list.open && list.children.length === 1 && list.append(...notices.map((notice) => this.#undelivered(notice)));
    unfold();
    list.addEventListener("toggle", () => {
      if (list.open) this.#openGroups.add(room);
      else this.#openGroups.delete(room);
      unfold(); // a hundred messages with a hundred names each are made only when they are shown
    });
    return this.#article("undelivered", "missed", title, [
      el(
        "div",
        { class: "notice-actions" },
        resendable.length > 0 && this.#resendButton(resendable),
        button(gettext("Dismiss all"), () => notices.forEach(({ notice }) => this.#chat.dismiss(notice))),
      ),
      list,
    ]);
  }

  /** Older messages that the server did not report one by one. @param {Frame} notice */
  #summary({ notice, data: { messages, from_at, to_at, rooms } }) {
    const counts = Object.entries(/** @type {Record<string, number>} */ (rooms)).sort(([, a], [, b]) => b - a);
    const others = counts.length - MAX_ROOMS;
    return this.#article(
      "undelivered",
      "missed",
      fill(ngettext("%(n)s older message did not reach everyone", "%(n)s older messages did not reach everyone", messages), {
        n: phrases.number(messages),
      }),
      [
        el(
          "p",
          { class: "notice-where" },
          fill(gettext("expired between %(from)s and %(to)s"), { from: this.#when(from_at), to: this.#when(to_at) }),
        ),
        el(
          "ul",
          { class: "people" },
          counts
            .slice(0, MAX_ROOMS)
            .map(([room, n]) => el("li", {}, el("b", { dir: "auto" }, this.#roomName(room)), el("span", {}, phrases.number(n)))),
          others > 0 && andMore(others),
        ),
        this.#summed(from_at, to_at),
        el(
          "div",
          { class: "notice-actions" },
          button(gettext("Dismiss"), () => this.#chat.dismiss(notice)),
        ),
      ],
    );
  }

  /** The messages of a summary one by one, loaded when they are shown. @param {number} fromAt @param {number} toAt */
  #summed(fromAt, toAt) {
    const list = el("div", {});
    const show = (/** @type {Frame} */ notice) =>
      el(
        "div",
        {},
        el("p", { class: "notice-where" }, headline(notice.data)),
        el("p", { class: "notice-where" }, `${this.#roomName(notice.data.room)}, ${this.#when(notice.data.sent_at)}`),
        missingPeople(notice),
      );
    /** @type {string | null | undefined} */
    let before;
    const load = async () => {
      const { notices, next } = await api.notices(before ?? undefined);
      before = next;
      list.append(
        ...notices.filter(({ kind, data }) => kind === "undelivered" && data.expired_at >= fromAt && data.expired_at <= toAt).map(show),
      );
      return next !== null && notices.every(({ data }) => (data.expired_at ?? toAt) >= fromAt);
    };
    const details = el("details", {}, el("summary", { class: "notice-where" }, gettext("Show each")), list);
    details.addEventListener("toggle", () => {
      if (details.children.length > 2) return;
      details.append(loader(gettext("Show more"), load));
      find("button", details).click();
    });
    return details;
  }

  /** @param {Frame[]} notices */
  #resendButton(notices) {
    const chat = this.#chat;
    const busy = notices.every(({ data }) => chat.isResending(data.room, data.seq));
    const total = notices.length === 1 ? (notices[0].data.missing_total ?? 0) : 0;
    const text =
      notices.length > 1
        ? gettext("Resend all")
        : total > notices[0].data.missing.length
          ? fill(ngettext("Resend to %(n)s", "Resend to %(n)s", total), { n: phrases.number(total) })
          : gettext("Resend to them");
    return button(text, () => notices.forEach(({ data }) => chat.resend(data)), { kind: "primary", disabled: busy });
  }

  /** @param {Offer} offer */
  #offer({ room, message, people, others, title, key }) {
    const by = phrases.duration(this.#chat.extensionOf(room, message).by);
    return this.#article("expiring", "warning", title, [
      el("p", { class: "notice-where" }, fill(gettext("%(room)s, sent %(sent)s"), { room: room.name, sent: this.#when(message.sent_at) })),
      el("p", { class: "notice-text", dir: "auto" }, message.body.slice(0, 200)),
      people?.length &&
        el(
          "ul",
          { class: "people" },
          people.map((recipient) => el("li", {}, el("b", { dir: "auto" }, recipient.name), el("span", {}, phrases.undelivered(recipient)))),
          others > 0 && andMore(others),
        ),
      el(
        "div",
        { class: "notice-actions" },
        button(fill(gettext("Extend by %(life)s"), { life: by }), () => this.#extend(room, message), { kind: "primary" }),
        button(gettext("Dismiss"), () => {
          this.#dismissed.add(key);
          this.render();
        }),
      ),
    ]);
  }

  /** @param {string} kind @param {string} sign @param {string} title @param {any[]} content */
  #article(kind, sign, title, content) {
    const id = `notice-${Notices.#ids++}`;
    return el(
      "article",
      { class: "notice", "data-kind": kind, "aria-labelledby": id },
      icon(sign),
      el("div", {}, el("h3", { id }, title), content),
    );
  }

  static #ids = 0;

  /** 13:05 if it is today, otherwise with the day. @param {number} ms */
  #when(ms) {
    const now = this.#serverClock.now();
    return phrases.isoDay(ms) === phrases.isoDay(now) ? phrases.clockTime(ms) : `${phrases.shortDate(ms, now)} ${phrases.clockTime(ms)}`;
  }
}

/** The recipients who missed it and why; a long list is folded, and the rest of a very long one is loaded. @param {Frame} notice */
function missingPeople({ notice, data: { missing, missing_total } }) {
  const row = (/** @type {Missed} */ recipient) =>
    el("li", {}, el("b", { dir: "auto" }, recipient.name), el("span", {}, phrases.longReason(recipient)));
  const unnamedCount = missing_total - missing.length;
  const last =
    unnamedCount > 0 &&
    el(
      "li",
      {},
      loader(more(unnamedCount), (/** @type {HTMLElement} */ place) => loadMissing(place)),
    );
  /** @type {Set<number>} */
  const named = new Set(missing.map((/** @type {Missed} */ { user }) => user));
  let after = 0;
  const loadMissing = async (/** @type {HTMLElement} */ place) => {
    const { missing: page } = await api.missing(notice, after);
    place.parentElement?.before(...page.filter(({ user }) => !named.has(user)).map(row));
    after = page.at(-1)?.user ?? after;
    if (page.length < MISSING_PAGE) place.closest("li")?.remove();
  };
  const shown = el("ul", { class: "people" }, missing.slice(0, MAX_LISTED).map(row), missing.length <= MAX_LISTED && last);
  if (missing.length <= MAX_LISTED) return shown;
  return [
    shown,
    el(
      "details",
      {},
      el("summary", { class: "notice-where" }, more(missing_total - MAX_LISTED)),
      el("ul", { class: "people" }, missing.slice(MAX_LISTED).map(row), last),
    ),
  ];
}

/**
 * A button that loads more with every click, until `load` returns false. It stays with a sentence when the server does not answer.
 *
 * @param {string} text
 * @param {(place: HTMLElement) => Promise<boolean | void>} load
 */
function loader(text, load) {
  const problem = el("span", { class: "field-error" });
  const control = button(text, async () => {
    control.disabled = true;
    setText(problem, "");
    try {
      if ((await load(place)) === false) place.remove();
    } catch {
      setText(problem, gettext("The server cannot be reached. Try again"));
    }
    control.disabled = false;
  });
  const place = el("div", { class: "notice-actions" }, control, problem);
  return place;
}

/** @param {number} n */
function more(n) {
  return fill(ngettext("and %(n)s more", "and %(n)s more", n), { n: phrases.number(n) });
}

/** @param {number} n */
function andMore(n) {
  return el("li", {}, el("span", {}, more(n)));
}

/** @param {MissingList} data */
function headline({ missing, missing_total }) {
  const shown = missing.slice(0, MAX_NAMES).map(({ name }) => name);
  const others = (missing_total ?? missing.length) - shown.length;
  if (others <= 0) return fill(gettext("Never reached %(names)s"), { names: phrases.names(shown) });
  return fill(ngettext("Never reached %(names)s and %(n)s more", "Never reached %(names)s and %(n)s more", others), {
    names: phrases.names(shown, { more: true }),
    n: phrases.number(others),
  });
}
