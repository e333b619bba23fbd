/** The list of rooms, and what the search finds beyond it. */
import * as api from "../http/api.js";
import { avatar, el, find, hidden, icon, setAttribute, setText } from "./dom.js";
import { fill, gettext } from "../i18n.js";
import { codePoints } from "../model/protocol.js";
import { stateOf } from "../model/delivery-state.js";
import * as words from "../phrases.js";

const SEARCH_AFTER_MS = 250;
const NINETY_NINE = 99;

export class RoomsView {
  #page;
  #rows = new Map(); // room id -> {element, shown}
  #frame = null;
  #search = find("#room-search");
  #found = { public: [], people: [] };
  #query = "";
  #asked = 0;

  /** page: {chat, outbox, keep, serverClock, current() -> room id|null, open(room id), problem(code)}. */
  constructor(page) {
    this.#page = page;
    let timer = null;
    this.#search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#look(), SEARCH_AFTER_MS);
      this.draw();
    });
    find("[data-search]").addEventListener("submit", (event) => {
      event.preventDefault();
      find("[data-rooms] section:not([hidden]) a, [data-rooms] section:not([hidden]) button")?.click();
    });
    find("[data-rooms]").addEventListener("keydown", (event) => this.#key(event));
  }

  draw() {
    if (this.#frame) return;
    const run = () => {
      this.#frame = null;
      this.render();
    };
    this.#frame = document.hidden ? setTimeout(run, 0) : requestAnimationFrame(run);
  }

  render() {
    const wanted = this.#search.value.trim().toLocaleLowerCase();
    const { chat } = this.#page;
    const rooms = [...chat.rooms.values()].filter((room) => (!room.left || room.id === this.#page.current()) && room.name.toLocaleLowerCase().includes(wanted));
    rooms.sort((a, b) => lastAt(b, this.#page.outbox) - lastAt(a, this.#page.outbox) || a.name.localeCompare(b.name));
    this.#fill("rooms", rooms.filter((room) => room.kind !== "direct").map((room) => this.#row(room)));
    this.#fill("direct", rooms.filter((room) => room.kind === "direct").map((room) => this.#row(room)));
    const joined = new Set(chat.rooms.keys());
    const open = wanted ? this.#found.public.filter((room) => !room.joined && !(joined.has(room.room) && !chat.rooms.get(room.room).left)) : [];
    const partners = new Set(rooms.filter((room) => room.kind === "direct").map((room) => room.partner?.user));
    const people = wanted ? this.#found.people.filter((one) => one.user !== chat.me.id && !partners.has(one.user)) : [];
    this.#fill("public", open.map((room) => this.#joinRow(room)));
    this.#fill("people", people.map((one) => this.#personRow(one)));
    find("[data-nothing-found]").hidden = !(wanted && this.#query === wanted && !rooms.length && !open.length && !people.length);
    find("[data-empty-app]").hidden = chat.rooms.size > 0;
  }

  #fill(name, rows) {
    const section = find(`[data-list="${name}"]`);
    section.hidden = rows.length === 0;
    const list = find("ul", section);
    rows.forEach((row, i) => list.children[i] !== row && list.insertBefore(row, list.children[i] ?? null));
    while (list.children.length > rows.length) list.lastElementChild.remove();
  }

  #row(room) {
    const shown = this.#shown(room);
    const fingerprint = JSON.stringify(shown);
    const row = this.#rows.get(room.id) ?? { element: el("li", {}, el("a", { class: "room-link", href: `/r/${encodeURIComponent(room.id)}/`, on: { click: (event) => this.#click(event, room.id) } })), shown: "" };
    this.#rows.set(room.id, row);
    if (row.shown !== fingerprint) this.#draw(row.element.firstChild, room, shown);
    row.shown = fingerprint;
    return row.element;
  }

  #shown(room) {
    const now = this.#page.serverClock.now();
    const last = room.log.list.at(-1) ?? null;
    const outbox = this.#page.outbox.inRoom(room.id);
    const at = lastAt(room, this.#page.outbox);
    const unread = room.unread;
    const partner = room.partner;
    return {
      name: room.name,
      kind: room.kind,
      partner: partner?.user ?? null,
      online: room.kind === "direct" && room.has_presence ? [...room.online].some((user) => user !== room.me.id) : null,
      current: room.id === this.#page.current(),
      muted: Boolean(room.muted),
      when: at ? [new Date(at).toISOString(), words.listWhen(at, now)] : null,
      unread: unread.count,
      least: unread.atLeast,
      mentions: room.mentions,
      preview: this.#preview(room, last, outbox),
    };
  }

  /** Most urgent first: not sent, typing, draft, the newest message. */
  #preview(room, last, outbox) {
    const failed = outbox.filter((item) => item.state === "failed").length;
    if (failed) return { kind: "failed", text: words.messagesNotSent(failed) };
    const typing = room.typing.map((user) => room.nameOf(user)).filter(Boolean);
    if (typing.length) return { kind: "plain", text: words.typing(typing) };
    const draft = this.#page.keep.draft(room.id);
    if (draft && room.id !== this.#page.current()) return { kind: "draft", text: draft.slice(0, 100) };
    if (!last) return { kind: "plain", text: gettext("No messages") };
    const body = last.body.slice(0, 120);
    if (room.isOwn(last) && room.kind === "direct") return { kind: "own", state: stateOf(room.receipts.get(last.seq)), text: body };
    if (room.kind === "direct") return { kind: "plain", text: body };
    return { kind: "plain", text: fill(gettext("%(name)s: %(text)s"), { name: room.isOwn(last) ? gettext("You") : last.from?.name ?? "", text: body }) };
  }

  #draw(link, room, shown) {
    setAttribute(link, "aria-current", shown.current ? "page" : null);
    setAttribute(link, "data-unread", shown.unread > 0 && !shown.muted);
    const presence = shown.online === null ? null : shown.online ? "online" : "offline";
    const face = shown.kind === "direct" ? avatar({ id: shown.partner ?? codePoints(room.id + shown.name), name: shown.name }, { presence }) : el("span", { class: "avatar", "data-kind": "room", "aria-hidden": "true" }, icon(shown.kind === "private" ? "private" : "public"));
    link.replaceChildren(
      face,
      el("span", { class: "room-name" }, el("span", { dir: "auto" }, shown.name), shown.muted && icon("mute", "icon-small"), shown.muted && hidden(gettext(", muted")), presence && hidden(presence === "online" ? gettext(", online") : gettext(", offline"))),
      shown.when ? el("time", { class: "room-when", datetime: shown.when[0] }, shown.when[1]) : el("span", { class: "room-when" }),
      previewElement(shown.preview, shown.name),
      el("span", { class: "room-counts" }, countsOf(shown)),
    );
  }

  #joinRow(room) {
    return el("li", {}, el("a", { class: "room-link", href: `/r/${encodeURIComponent(room.room)}/`, on: { click: (event) => this.#join(event, room) } },
      el("span", { class: "avatar", "data-kind": "room", "aria-hidden": "true" }, icon("public")),
      el("span", { class: "room-name" }, el("span", { dir: "auto" }, room.name)),
      el("span", { class: "room-when" }, gettext("Join")),
      el("span", { class: "room-preview" }, el("span", { dir: "auto" }, room.topic || words.membersLine(room.members, null)))));
  }

  #personRow(person) {
    return el("li", {}, el("a", { class: "room-link", href: "#", on: { click: (event) => this.#direct(event, person) } },
      avatar({ id: person.user, name: person.name }),
      el("span", { class: "room-name" }, el("span", { dir: "auto" }, person.name)),
      el("span", { class: "room-when" }),
      el("span", { class: "room-preview" }, el("span", {}, gettext("Write to them alone")))));
  }

  async #look() {
    const query = this.#search.value.trim();
    const turn = ++this.#asked;
    if (!query) {
      this.#found = { public: [], people: [] };
      return this.draw();
    }
    const [rooms, people] = await Promise.all([api.publicRooms(query).catch(() => ({ rooms: [] })), api.people(query).catch(() => ({ people: [] }))]);
    if (turn !== this.#asked) return;
    this.#found = { public: rooms.rooms, people: people.people };
    this.#query = query.toLocaleLowerCase();
    this.draw();
  }

  #clear() {
    this.#search.value = "";
    this.#found = { public: [], people: [] };
    this.draw();
  }

  #click(event, room) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (this.#search.value) this.#clear();
    this.#page.open(room);
  }

  #join(event, room) {
    event.preventDefault();
    this.#page.attempt(async () => {
      await api.joinRoom(room.room);
      this.#clear();
      this.#page.open(room.room);
    });
  }

  #direct(event, person) {
    event.preventDefault();
    this.#page.attempt(async () => {
      const { room } = await api.openDirect(person.name);
      this.#clear();
      this.#page.open(room);
    });
  }

  #key(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const links = [...find("[data-rooms]").querySelectorAll("a")].filter((link) => link.offsetParent);
    const at = links.indexOf(document.activeElement);
    if (at < 0) return;
    event.preventDefault();
    links[Math.max(0, Math.min(links.length - 1, at + (event.key === "ArrowDown" ? 1 : -1)))].focus();
  }
}

function lastAt(room, outbox) {
  return Math.max(room.log.list.at(-1)?.sent_at ?? 0, outbox.inRoom(room.id).at(-1)?.created_at ?? 0);
}

function previewElement({ kind, text, state }, name) {
  const words_of = { read: gettext("Read: "), delivered: gettext("Delivered: "), sent: fill(gettext("Sent, waits for %(name)s: "), { name }) };
  if (kind === "failed") return el("span", { class: "room-preview", "data-state": "failed" }, icon("failed", "tick"), el("span", {}, text));
  if (kind === "draft") return el("span", { class: "room-preview" }, icon("draft", "icon-small"), el("span", { dir: "auto" }, el("b", {}, gettext("Draft")), ` ${text}`));
  if (kind === "own") return el("span", { class: "room-preview" }, icon(state === "delivering" ? "sent" : state, "tick"), hidden(words_of[state] ?? words_of.sent), el("span", { dir: "auto" }, text));
  return el("span", { class: "room-preview" }, el("span", { dir: "auto" }, text));
}

function countsOf({ mentions, unread, least }) {
  const out = [];
  if (mentions) out.push(hidden(", "), el("span", { class: "count", "data-kind": "mention" }, el("span", { "aria-hidden": "true" }, `@${mentions}`), hidden(words.mentions(mentions))));
  if (unread) out.push(hidden(", "), el("span", { class: "count" }, el("span", { "aria-hidden": "true" }, unread > NINETY_NINE || least ? "99+" : String(unread)), hidden(words.unread(unread))));
  return out;
}
