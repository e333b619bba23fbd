/** The head of the open room, and the line below its timeline: the people who are typing, the undelivered own messages. */
import { avatar, el, find, fillWith, setAttribute, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import * as phrases from "../phrases.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { Member, Room } from "../model/room.js" */

const MAX_FACES = 3;
const MAX_NAMES = 10; // in the label of the faces

export class RoomHead {
  #chat;
  #name = find("#room-name");
  #line = find("[data-room-line]");
  #ttl = find("[data-room-ttl]");
  #members = find("[data-members]");
  #typing = find("[data-typing]");
  #onTheWay = find("[data-on-the-way]");

  /** nextOnTheWay(): focus the next undelivered message. @param {{chat: Chat, nextOnTheWay: () => void}} parts */
  constructor({ chat, nextOnTheWay }) {
    this.#chat = chat;
    this.#onTheWay.addEventListener("click", nextOnTheWay);
  }

  /** @param {Room} room */
  render(room) {
    setText(this.#name, room.name);
    setText(this.#line, this.#lineOf(room));
    setText(find("span", this.#ttl), phrases.duration(room.ttl));
    setAttribute(
      this.#ttl,
      "aria-label",
      fill(
        room.moderates
          ? gettext("Lifetime of new messages in this room: %(life)s. Change")
          : gettext("Lifetime of new messages in this room: %(life)s"),
        { life: phrases.duration(room.ttl) },
      ),
    );
    this.#renderFaces(room);
    this.typing(room);
    this.onTheWay(room);
  }

  /** @param {Room} room */
  #lineOf(room) {
    if (room.kind === "direct") {
      const partner = room.partner;
      if (!partner || !room.hasPresence) return "";
      return room.online.has(partner.user) ? gettext("Online") : gettext("Offline");
    }
    if (room.membersTotal === null) return room.topic ?? "";
    const members = phrases.membersLine(room.membersTotal, room.hasPresence ? room.online.size : null);
    return room.tracked ? members : fill(gettext("Not tracked, %(members)s"), { members });
  }

  /** @param {Room} room */
  #renderFaces(room) {
    const others = (room.members ?? []).filter(({ user }) => user !== this.#chat.me.id);
    this.#members.hidden = room.kind === "direct" || others.length === 0;
    if (this.#members.hidden) return;
    const online = others.filter(({ user }) => room.online.has(user));
    const offline = others.filter(({ user }) => !room.online.has(user));
    const shown = [...online, ...offline].slice(0, MAX_FACES);
    const rest = (room.membersTotal ?? 0) - shown.length;
    const fingerprint = JSON.stringify([shown.map(({ user }) => user), rest]);
    const namesOf = (/** @type {Member[]} */ people) => phrases.names(people.slice(0, MAX_NAMES).map(({ name }) => name));
    const label = [
      gettext("Members"),
      online.length ? fill(gettext("%(names)s online"), { names: namesOf(online) }) : "",
      offline.length ? fill(gettext("%(names)s offline"), { names: namesOf(offline) }) : "",
    ]
      .filter(Boolean)
      .join(gettext("; "));
    setAttribute(this.#members, "aria-label", label);
    if (this.#members.dataset.shown === fingerprint) return;
    this.#members.dataset.shown = fingerprint;
    fillWith(
      this.#members,
      shown.map(({ user, name }) => avatar({ id: user, name }, { size: "small" })),
      rest > 0 && el("span", { class: "avatar", "data-size": "small", "data-tint": "5", "aria-hidden": "true" }, `+${rest}`),
    );
  }

  /** @param {Room} room */
  typing(room) {
    const people = room.typing.map((user) => room.nameOf(user) ?? gettext("Someone"));
    find("svg", this.#typing).toggleAttribute("hidden", people.length === 0);
    setText(find("span", this.#typing), people.length ? phrases.typing(people) : "");
  }

  /** @param {Room} room */
  onTheWay(room) {
    const n = room.onTheWay.length;
    this.#onTheWay.hidden = n === 0;
    if (n)
      setText(
        find("[data-count]", this.#onTheWay),
        fill(ngettext("%(n)s still being delivered", "%(n)s still being delivered", n), { n: phrases.number(n) }),
      );
  }
}
