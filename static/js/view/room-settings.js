/** The sheet about a room: its name, topic and lifetimes for users who can change them, its members, muting and leaving. */
import * as api from "../http/api.js";
import { confirmAction } from "./confirm.js";
import { avatar, button, el, fillWith, find, setText } from "./dom.js";
import { fill, gettext } from "../i18n.js";
import { fillLifetimes } from "./lifetime-picker.js";
import { Shorten } from "./shorten.js";
import * as phrases from "../phrases.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { Member, Room } from "../model/room.js" */
/** @import { RoomDetails } from "../http/room-details.js" */

export class RoomSettings {
  #chat;
  #roomDetails;
  #currentRoom;
  #sheet = find("#about");
  #error = find("[data-error]", this.#sheet);
  #form = find("[data-room-form]");
  #add = find("[data-add-member]");
  #shorten = new Shorten({ failed: (error) => this.#showError(error) });
  /** @type {Room | null} */
  #room = null;

  /**
   * @param {{
   *   chat: Chat, roomDetails: Pick<RoomDetails, "loadMembers">, currentRoom: () => Room | null,
   *   setMuted: (room: Room, muted: boolean) => void,
   * }} parts
   */
  constructor({ chat, roomDetails, currentRoom, setMuted }) {
    this.#chat = chat;
    this.#roomDetails = roomDetails;
    this.#currentRoom = currentRoom;
    this.#sheet.addEventListener("toggle", (/** @type {any} */ event) =>
      event.newState === "open" ? this.#opened() : (this.#room = null),
    );
    this.#form.addEventListener("submit", (/** @type {Event} */ event) => this.#save(event));
    this.#add.addEventListener("submit", (/** @type {Event} */ event) => this.#addMember(event));
    find("[data-leave]", this.#sheet).addEventListener("click", () => this.#leave());
    find("[data-mute] input", this.#sheet).addEventListener(
      "change",
      (/** @type {any} */ { target }) => this.#room && setMuted(this.#room, target.checked),
    );
  }

  #opened() {
    const room = this.#currentRoom();
    this.#room = room;
    if (!room) return this.#sheet.hidePopover();
    this.#showError(null);
    this.#fillForm(room);
    this.refresh(room);
    this.#roomDetails.loadMembers(room).catch((error) => this.#showError(error));
  }

  /** The room changed. @param {Room} room */
  refresh(room) {
    if (room !== this.#room) return;
    const direct = room.kind === "direct";
    this.#form.hidden = !(room.moderates || direct) || room.left;
    for (const field of ["name", "topic"]) this.#form.elements[field].closest(".field").hidden = direct; // a direct room has the names of its two members
    this.#shorten.hidden = !(room.moderates || direct) || room.left;
    find("[data-untracked]", this.#sheet).hidden = room.tracked;
    this.#add.hidden = !(room.kind === "private" && room.moderates) || room.left;
    const topic = find("[data-topic]", this.#sheet);
    topic.hidden = !room.topic || !this.#form.hidden;
    setText(topic, room.topic);
    fillWith(
      find("[data-room-facts]", this.#sheet),
      ...(this.#form.hidden
        ? [
            el("dt", {}, gettext("Lifetime of new messages")),
            el("dd", {}, phrases.duration(room.ttl)),
            el("dt", {}, gettext("Maximum lifetime")),
            el("dd", {}, phrases.duration(room.ttl_max)),
          ]
        : []),
    );
    find("[data-mute] input", this.#sheet).checked = Boolean(room.muted);
    find("[data-leave]", this.#sheet).hidden = direct || room.left;
    setText(find("[data-members-count]", this.#sheet), room.membersTotal === null ? "" : phrases.number(room.membersTotal));
    fillWith(
      find("[data-member-list]", this.#sheet),
      (room.members ?? []).map((member) => this.#member(room, member)),
    );
  }

  /** @param {Room} room @param {Member} member */
  #member(room, { user, name, role }) {
    const online = room.hasPresence ? room.online.has(user) : null;
    const removable = room.moderates && room.kind !== "direct" && role === "member" && user !== this.#chat.me.id && !room.left;
    const facts = [
      role !== "member" && phrases.role(role),
      online === true && gettext("online"),
      online === false && gettext("offline"),
    ].filter(Boolean);
    return el(
      "li",
      { class: "recipient" },
      avatar({ id: user, name }, { presence: online === null ? null : online ? "online" : "offline" }),
      el("b", { dir: "auto" }, user === this.#chat.me.id ? fill(gettext("%(name)s (you)"), { name }) : name),
      facts.length > 0 && el("small", {}, facts.join(gettext(", "))),
      removable &&
        button(gettext("Remove"), () => this.#remove(user, name), {
          kind: "plain",
          "aria-label": fill(gettext("Remove %(name)s"), { name }),
        }),
    );
  }

  /** @param {Room} room */
  #fillForm(room) {
    const { elements } = this.#form;
    elements.name.value = room.name;
    elements.topic.value = room.topic;
    const longest = this.#chat.limits.ttl_max;
    fillLifetimes(elements.ttl, { current: room.ttl, longest });
    fillLifetimes(elements.ttl_max, { current: room.ttl_max, longest });
    this.#shorten.open(room, longest);
    api.roomDetails(room.id).then(
      ({ topic }) => {
        if (this.#room?.id !== room.id) return;
        this.#room.topic = topic;
        elements.topic.value ||= topic;
      },
      () => {},
    );
  }

  /** @param {Event} event */
  async #save(event) {
    event.preventDefault();
    const room = this.#room;
    if (!room) return;
    const { name, topic, ttl, ttl_max } = this.#form.elements;
    const wanted = { name: name.value.trim(), topic: topic.value.trim(), ttl: Number(ttl.value), ttl_max: Number(ttl_max.value) };
    if (wanted.ttl > wanted.ttl_max) return this.#showError({ code: "bad_ttl" }, wanted.ttl_max);
    /** @type {("name" | "topic" | "ttl" | "ttl_max")[]} */
    const fields = room.kind === "direct" ? ["ttl", "ttl_max"] : ["name", "topic", "ttl", "ttl_max"];
    const changed = Object.fromEntries(fields.filter((field) => wanted[field] !== room[field]).map((field) => [field, wanted[field]]));
    if (!Object.keys(changed).length) return this.#sheet.hidePopover();
    await this.#try(async () => {
      await api.changeRoom(room.id, changed);
      room.topic = wanted.topic;
      this.#sheet.hidePopover();
    });
  }

  /** @param {Event} event */
  async #addMember(event) {
    event.preventDefault();
    const room = this.#room;
    if (!room) return;
    const field = this.#add.elements.name;
    await this.#try(async () => {
      await api.addMember(room.id, field.value.trim());
      field.value = "";
      await this.#roomDetails.loadMembers(room);
    });
  }

  /** @param {number} user @param {string} name */
  async #remove(user, name) {
    const room = this.#room;
    if (
      !room ||
      !(await confirmAction({
        title: fill(gettext("Remove %(name)s from this room?"), { name }),
        effect: gettext("Messages they have not received will be reported as “left the room”."),
        yes: gettext("Remove"),
      }))
    )
      return;
    await this.#try(async () => {
      await api.removeMember(room.id, user);
      await this.#roomDetails.loadMembers(room);
    });
  }

  async #leave() {
    const room = this.#room;
    if (
      !room ||
      !(await confirmAction({
        title: fill(gettext("Leave %(name)s?"), { name: room.name }),
        effect: gettext("Messages you sent stay until they expire."),
        yes: gettext("Leave"),
      }))
    )
      return;
    await this.#try(async () => {
      await api.leaveRoom(room.id);
      this.#sheet.matches(":popover-open") && this.#sheet.hidePopover();
    });
  }

  /** @param {() => Promise<void>} action */
  async #try(action) {
    this.#showError(null);
    try {
      await action();
    } catch (error) {
      this.#showError(error);
    }
  }

  /** longest: the bound of a refused lifetime, in seconds. @param {any} error */
  #showError(error, longest = this.#chat.limits.ttl_max) {
    this.#error.hidden = !error;
    const bounds = error?.code === "bad_ttl" ? `: ${phrases.lifetimeBounds(this.#chat.limits.ttl_min, longest)}` : "";
    setText(this.#error, error ? phrases.refused(error.code) + bounds : "");
  }
}
