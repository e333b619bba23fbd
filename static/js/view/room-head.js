/** The head of the open room, and the line under its timeline: who is typing, what is still on the way. */
import { avatar, el, find, fillWith, setAttribute, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import * as words from "../phrases.js";

const FACES = 3;

export class RoomHead {
  #page;
  #name = find("#room-name");
  #line = find("[data-room-line]");
  #ttl = find("[data-room-ttl]");
  #members = find("[data-members]");
  #typing = find("[data-typing]");
  #on_the_way = find("[data-on-the-way]");

  /** page: {chat, nextOnTheWay()}. */
  constructor(page) {
    this.#page = page;
    this.#on_the_way.addEventListener("click", () => page.nextOnTheWay());
  }

  render(room) {
    setText(this.#name, room.name);
    setText(this.#line, this.#about(room));
    setText(find("span", this.#ttl), words.duration(room.ttl));
    setAttribute(this.#ttl, "aria-label", fill(room.moderates ? gettext("Lifetime of new messages in this room: %(life)s. Change") : gettext("Lifetime of new messages in this room: %(life)s"), { life: words.duration(room.ttl) }));
    this.#faces(room);
    this.typing(room);
    this.onTheWay(room);
  }

  #about(room) {
    if (room.kind === "direct") {
      const partner = room.partner;
      if (!partner || !room.has_presence) return "";
      return room.online.has(partner.user) ? gettext("Online") : gettext("Offline");
    }
    if (room.members_total === null) return room.topic ?? "";
    const members = words.membersLine(room.members_total, room.has_presence ? room.online.size : null);
    return room.tracked ? members : fill(gettext("Not tracked, %(members)s"), { members });
  }

  #faces(room) {
    const others = (room.members ?? []).filter(({ user }) => user !== this.#page.chat.me.id);
    this.#members.hidden = room.kind === "direct" || others.length === 0;
    if (this.#members.hidden) return;
    const here = others.filter(({ user }) => room.online.has(user));
    const away = others.filter(({ user }) => !room.online.has(user));
    const shown = [...here, ...away].slice(0, FACES);
    const rest = room.members_total - shown.length;
    const fingerprint = JSON.stringify([shown.map(({ user }) => user), rest]);
    const list = (people) => words.names(people.slice(0, 10).map(({ name }) => name));
    const label = [gettext("Members"), here.length ? fill(gettext("%(names)s online"), { names: list(here) }) : "", away.length ? fill(gettext("%(names)s offline"), { names: list(away) }) : ""].filter(Boolean).join("; ");
    setAttribute(this.#members, "aria-label", label);
    if (this.#members.dataset.shown === fingerprint) return;
    this.#members.dataset.shown = fingerprint;
    fillWith(this.#members, shown.map(({ user, name }) => avatar({ id: user, name }, { size: "small" })), rest > 0 && el("span", { class: "avatar", "data-size": "small", "data-tint": "5", "aria-hidden": "true" }, `+${rest}`));
  }

  typing(room) {
    const people = room.typing.map((user) => room.nameOf(user) ?? gettext("Somebody"));
    find("svg", this.#typing).toggleAttribute("hidden", people.length === 0);
    setText(find("span", this.#typing), people.length ? words.typing(people) : "");
  }

  onTheWay(room) {
    const n = room.onTheWay.length;
    this.#on_the_way.hidden = n === 0;
    if (n) setText(find("[data-count]", this.#on_the_way), fill(ngettext("%(n)s still on the way", "%(n)s still on the way", n), { n: words.number(n) }));
  }
}
