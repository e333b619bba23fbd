/** The list of rooms, and the public rooms and people that the search finds. */
import * as api from "../http/api.js";
import { announce, avatar, el, find, findAll, hidden, icon, setAttribute } from "./dom.js";
import { fill, gettext } from "../i18n.js";
import { codePoints } from "../model/protocol.js";
import { stateOf } from "../model/delivery-state.js";
import * as phrases from "../phrases.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { FoundPerson, PublicRoom } from "../http/api.js" */
/** @import { Message } from "../model/protocol.js" */
/** @import { Outbox, OutboxItem } from "../model/outbox.js" */
/** @import { Preferences } from "../device/preferences.js" */
/** @import { Room } from "../model/room.js" */
/** @import { ServerClock } from "../model/server-clock.js" */

/** @typedef {{kind: string, text: string, state?: string}} Preview */

const SEARCH_AFTER_MS = 250;
const MAX_COUNT = 99;

export class RoomList {
  #chat;
  #outbox;
  #preferences;
  #serverClock;
  #currentId;
  #open;
  /** @type {Map<string, {element: any, shown: string}>} */
  #rows = new Map(); // by room id
  #isDrawing = false;
  #search = find("#room-search");
  /** @type {{rooms: PublicRoom[], people: FoundPerson[]}} */
  #results = { rooms: [], people: [] };
  #query = "";
  #searches = 0;

  /**
   * @param {{
   *   chat: Chat, outbox: Outbox, preferences: Preferences, serverClock: ServerClock, currentId: () => string | null,
   *   open: (roomId: string) => void,
   * }} parts
   */
  constructor({ chat, outbox, preferences, serverClock, currentId, open }) {
    this.#chat = chat;
    this.#outbox = outbox;
    this.#preferences = preferences;
    this.#serverClock = serverClock;
    this.#currentId = currentId;
    this.#open = open;
    let timer = 0;
    this.#search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#startSearch(), SEARCH_AFTER_MS);
      this.draw();
    });
    find("[data-search]").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      find("[data-rooms] section:not([hidden]) a, [data-rooms] section:not([hidden]) button")?.click();
    });
    find("[data-rooms]").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#handleKey(event));
  }

  /** Render with the next frame of the screen; a hidden tab gets no frames. */
  draw() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    const run = () => {
      this.#isDrawing = false;
      this.render();
    };
    if (document.hidden) setTimeout(run, 0);
    else requestAnimationFrame(run);
  }

  render() {
    const wanted = this.#search.value.trim().toLocaleLowerCase();
    const chat = this.#chat;
    const rooms = [...chat.rooms.values()].filter(
      (room) => (!room.left || room.id === this.#currentId()) && room.name.toLocaleLowerCase().includes(wanted),
    );
    rooms.sort((a, b) => lastAt(b, this.#outbox) - lastAt(a, this.#outbox) || a.name.localeCompare(b.name));
    this.#fill(
      "rooms",
      rooms.filter((room) => room.kind !== "direct").map((room) => this.#row(room)),
    );
    this.#fill(
      "direct",
      rooms.filter((room) => room.kind === "direct").map((room) => this.#row(room)),
    );
    const isMember = (/** @type {string} */ id) => chat.rooms.get(id)?.left === false;
    const open = wanted ? this.#results.rooms.filter((room) => !room.joined && !isMember(room.room)) : [];
    const partners = new Set(rooms.filter((room) => room.kind === "direct").map((room) => room.partner?.user));
    const people = wanted ? this.#results.people.filter(({ user }) => user !== chat.me.id && !partners.has(user)) : [];
    this.#fill(
      "public",
      open.map((room) => this.#joinRow(room)),
    );
    this.#fill(
      "people",
      people.map((person) => this.#personRow(person)),
    );
    find("[data-nothing-found]").hidden = !(wanted && this.#query === wanted && !rooms.length && !open.length && !people.length);
    find("[data-empty-app]").hidden = chat.rooms.size > 0;
  }

  /** @param {string} name @param {Element[]} rows */
  #fill(name, rows) {
    const section = find(`[data-list="${name}"]`);
    section.hidden = rows.length === 0;
    const list = find("ul", section);
    rows.forEach((row, i) => list.children[i] !== row && list.insertBefore(row, list.children[i] ?? null));
    while (list.children.length > rows.length) list.lastElementChild.remove();
  }

  /** @param {Room} room */
  #row(room) {
    const shown = this.#shown(room);
    const fingerprint = JSON.stringify(shown);
    const row = this.#rows.get(room.id) ?? {
      element: el(
        "li",
        {},
        el("a", {
          class: "room-link",
          href: `/r/${encodeURIComponent(room.id)}/`,
          on: { click: (/** @type {MouseEvent} */ event) => this.#click(event, room.id) },
        }),
      ),
      shown: "",
    };
    this.#rows.set(room.id, row);
    if (row.shown !== fingerprint) this.#renderRow(row.element.firstChild, room, shown);
    row.shown = fingerprint;
    return row.element;
  }

  /** @param {Room} room */
  #shown(room) {
    const now = this.#serverClock.now();
    const last = room.log.list.at(-1) ?? null;
    const unsent = this.#outbox.inRoom(room.id);
    const writtenAt = lastAt(room, this.#outbox);
    const unread = room.unread;
    const partner = room.partner;
    return {
      name: room.name,
      kind: room.kind,
      partner: partner?.user ?? null,
      online: room.kind === "direct" && room.hasPresence ? [...room.online].some((user) => user !== room.me.id) : null,
      current: room.id === this.#currentId(),
      muted: Boolean(room.muted),
      when: writtenAt ? [new Date(writtenAt).toISOString(), phrases.shortDate(writtenAt, now)] : null,
      unread: unread.count,
      atLeast: unread.atLeast,
      mentions: room.mentions,
      preview: this.#preview(room, last, unsent),
    };
  }

  /**
   * The most urgent of: unsent messages, people typing, a draft, the newest message.
   *
   * @param {Room} room
   * @param {Message | null} last
   * @param {OutboxItem[]} unsent
   * @returns {Preview}
   */
  #preview(room, last, unsent) {
    const failed = unsent.filter((item) => item.state === "failed").length;
    if (failed) return { kind: "failed", text: phrases.messagesNotSent(failed) };
    const typing = room.typing.map((user) => room.nameOf(user)).filter((name) => name !== null);
    if (typing.length) return { kind: "plain", text: phrases.typing(typing) };
    const draft = this.#preferences.draft(room.id);
    if (draft && room.id !== this.#currentId()) return { kind: "draft", text: draft.slice(0, 100) };
    if (!last) return { kind: "plain", text: gettext("No messages") };
    const body = last.body.slice(0, 120);
    if (room.isOwn(last) && room.kind === "direct") return { kind: "own", state: stateOf(room.receipts.get(last.seq)), text: body };
    if (room.kind === "direct") return { kind: "plain", text: body };
    return {
      kind: "plain",
      text: fill(gettext("%(name)s: %(text)s"), { name: room.isOwn(last) ? gettext("You") : (last.from?.name ?? ""), text: body }),
    };
  }

  /** @param {Element} link @param {Room} room @param {any} shown */
  #renderRow(link, room, shown) {
    setAttribute(link, "aria-current", shown.current ? "page" : null);
    setAttribute(link, "data-unread", shown.unread > 0 && !shown.muted);
    const presence = shown.online === null ? null : shown.online ? "online" : "offline";
    const face =
      shown.kind === "direct"
        ? avatar({ id: shown.partner ?? codePoints(room.id + shown.name), name: shown.name }, { presence })
        : el(
            "span",
            { class: "avatar", "data-kind": "room", "aria-hidden": "true" },
            icon(shown.kind === "private" ? "private" : "public"),
          );
    link.replaceChildren(
      face,
      el(
        "span",
        { class: "room-name" },
        el("span", { dir: "auto" }, shown.name),
        shown.muted && icon("mute", "icon-small"),
        shown.muted && hidden(gettext(", muted")),
        presence && hidden(presence === "online" ? gettext(", online") : gettext(", offline")),
      ),
      shown.when ? el("time", { class: "room-when", datetime: shown.when[0] }, shown.when[1]) : el("span", { class: "room-when" }),
      previewElement(shown.preview, shown.name),
      el("span", { class: "room-counts" }, countsOf(shown)),
    );
  }

  /** @param {PublicRoom} room */
  #joinRow(room) {
    return el(
      "li",
      {},
      el(
        "a",
        {
          class: "room-link",
          href: `/r/${encodeURIComponent(room.room)}/`,
          on: { click: (/** @type {Event} */ event) => this.#join(event, room) },
        },
        el("span", { class: "avatar", "data-kind": "room", "aria-hidden": "true" }, icon("public")),
        el("span", { class: "room-name" }, el("span", { dir: "auto" }, room.name)),
        el("span", { class: "room-when" }, gettext("Join")),
        el("span", { class: "room-preview" }, el("span", { dir: "auto" }, room.topic || phrases.membersLine(room.members, null))),
      ),
    );
  }

  /** @param {FoundPerson} person */
  #personRow(person) {
    return el(
      "li",
      {},
      el(
        "a",
        { class: "room-link", href: "#", on: { click: (/** @type {Event} */ event) => this.#openDirect(event, person) } },
        avatar({ id: person.user, name: person.name }),
        el("span", { class: "room-name" }, el("span", { dir: "auto" }, person.name)),
        el("span", { class: "room-when" }),
        el("span", { class: "room-preview" }, el("span", {}, gettext("Send a direct message"))),
      ),
    );
  }

  async #startSearch() {
    const query = this.#search.value.trim();
    const search = ++this.#searches;
    if (!query) {
      this.#results = { rooms: [], people: [] };
      return this.draw();
    }
    const [rooms, people] = await Promise.all([
      api.publicRooms(query).catch(() => ({ rooms: [] })),
      api.people(query).catch(() => ({ people: [] })),
    ]);
    if (search !== this.#searches) return;
    this.#results = { rooms: rooms.rooms, people: people.people };
    this.#query = query.toLocaleLowerCase();
    this.draw();
  }

  #clear() {
    this.#search.value = "";
    this.#results = { rooms: [], people: [] };
    this.draw();
  }

  /** @param {MouseEvent} event @param {string} roomId */
  #click(event, roomId) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (this.#search.value) this.#clear();
    this.#open(roomId);
  }

  /** @param {Event} event @param {PublicRoom} room */
  #join(event, room) {
    event.preventDefault();
    attempt(async () => {
      await api.joinRoom(room.room);
      this.#clear();
      this.#open(room.room);
    });
  }

  /** @param {Event} event @param {FoundPerson} person */
  #openDirect(event, person) {
    event.preventDefault();
    attempt(async () => {
      const { room } = await api.openDirect(person.name);
      this.#clear();
      this.#open(room);
    });
  }

  /** @param {KeyboardEvent} event */
  #handleKey(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const links = findAll("[data-rooms] a").filter((link) => link.offsetParent);
    const index = links.indexOf(document.activeElement);
    if (index < 0) return;
    event.preventDefault();
    links[Math.max(0, Math.min(links.length - 1, index + (event.key === "ArrowDown" ? 1 : -1)))].focus();
  }
}

/** When the room's newest message was written, epoch ms. @param {Room} room @param {Outbox} outbox */
function lastAt(room, outbox) {
  return Math.max(room.log.list.at(-1)?.sent_at ?? 0, outbox.inRoom(room.id).at(-1)?.created_at ?? 0);
}

/** @param {Preview} preview @param {string} name */
function previewElement({ kind, text, state }, name) {
  /** @type {Record<string, string>} */
  const labels = {
    read: gettext("Read: "),
    delivered: gettext("Delivered: "),
    sent: fill(gettext("Sent, waiting for %(name)s: "), { name }),
  };
  if (kind === "failed") return el("span", { class: "room-preview", "data-state": "failed" }, icon("failed", "tick"), el("span", {}, text));
  if (kind === "draft")
    return el(
      "span",
      { class: "room-preview" },
      icon("draft", "icon-small"),
      el("span", { dir: "auto" }, el("b", {}, gettext("Draft")), ` ${text}`),
    );
  if (kind === "own")
    return el(
      "span",
      { class: "room-preview" },
      icon(state === "delivering" ? "sent" : (state ?? "sent"), "tick"),
      hidden(labels[state ?? "sent"] ?? labels.sent),
      el("span", { dir: "auto" }, text),
    );
  return el("span", { class: "room-preview" }, el("span", { dir: "auto" }, text));
}

/** @param {{mentions: number, unread: number, atLeast: boolean}} shown */
function countsOf({ mentions, unread, atLeast }) {
  const counts = [];
  if (mentions)
    counts.push(
      hidden(", "),
      el(
        "span",
        { class: "count", "data-kind": "mention" },
        el("span", { "aria-hidden": "true" }, `@${mentions}`),
        hidden(phrases.mentions(mentions)),
      ),
    );
  if (unread)
    counts.push(
      hidden(", "),
      el(
        "span",
        { class: "count" },
        el("span", { "aria-hidden": "true" }, unread > MAX_COUNT || atLeast ? `${MAX_COUNT}+` : String(unread)),
        hidden(phrases.unread(unread)),
      ),
    );
  return counts;
}

/** Run an action; announce the reason when the server refuses it. @param {() => Promise<void>} action */
async function attempt(action) {
  try {
    await action();
  } catch (/** @type {any} */ error) {
    announce(phrases.refused(error.code));
  }
}
