/** About a room: its name, topic and lifetimes for those who may change them, its members, muting and leaving. */
import * as api from "../http/api.js";
import { avatar, button, el, fillWith, find, setText } from "./dom.js";
import { fill, gettext } from "../i18n.js";
import { fillLifetimes } from "./lifetime-picker.js";
import { Shorten } from "./shorten.js";
import * as words from "../phrases.js";

export class About {
  #page;
  #sheet = find("#about");
  #error = find("[data-error]", this.#sheet);
  #form = find("[data-room-form]");
  #add = find("[data-add-member]");
  #shorten = new Shorten({ failed: (error) => this.#say(error) });
  #room = null;

  /** page: {chat, currentRoom(), loadMembers(room) -> Promise, ask, muted(room, is), changed(room)}. */
  constructor(page) {
    this.#page = page;
    this.#sheet.addEventListener("toggle", (event) => (event.newState === "open" ? this.#opened() : (this.#room = null)));
    this.#form.addEventListener("submit", (event) => this.#save(event));
    this.#add.addEventListener("submit", (event) => this.#addMember(event));
    find("[data-leave]", this.#sheet).addEventListener("click", () => this.#leave());
    find("[data-mute] input", this.#sheet).addEventListener("change", (event) => page.muted(this.#room, event.target.checked));
  }

  #opened() {
    this.#room = this.#page.currentRoom();
    if (!this.#room) return this.#sheet.hidePopover();
    this.#say(null);
    this.#fillForm();
    this.refresh(this.#room);
    this.#page.loadMembers(this.#room).catch((error) => this.#say(error));
  }

  refresh(room) {
    if (room !== this.#room) return;
    const direct = room.kind === "direct";
    this.#form.hidden = !(room.moderates || direct) || room.left;
    for (const field of ["name", "topic"]) this.#form.elements[field].closest(".field").hidden = direct; // it is called after the two
    this.#shorten.hidden = !(room.moderates || direct) || room.left;
    find("[data-untracked]", this.#sheet).hidden = room.tracked;
    this.#add.hidden = !(room.kind === "private" && room.moderates) || room.left;
    const topic = find("[data-topic]", this.#sheet);
    topic.hidden = !room.topic || !this.#form.hidden;
    setText(topic, room.topic);
    fillWith(find("[data-room-facts]", this.#sheet), ...(this.#form.hidden ? [el("dt", {}, gettext("Lifetime of new messages")), el("dd", {}, words.duration(room.ttl)), el("dt", {}, gettext("Longest lifetime here")), el("dd", {}, words.duration(room.ttl_max))] : []));
    find("[data-mute] input", this.#sheet).checked = Boolean(room.muted);
    find("[data-leave]", this.#sheet).hidden = direct || room.left;
    setText(find("[data-members-count]", this.#sheet), room.members_total === null ? "" : words.number(room.members_total));
    fillWith(find("[data-member-list]", this.#sheet), (room.members ?? []).map((member) => this.#member(room, member)));
  }

  #member(room, { user, name, role }) {
    const online = room.has_presence ? room.online.has(user) : null;
    const removable = room.moderates && room.kind !== "direct" && role === "member" && user !== this.#page.chat.me.id && !room.left;
    const says = [role !== "member" && words.role(role), online === true && gettext("online"), online === false && gettext("offline")].filter(Boolean);
    return el("li", { class: "recipient" },
      avatar({ id: user, name }, { presence: online === null ? null : online ? "online" : "offline" }),
      el("b", { dir: "auto" }, user === this.#page.chat.me.id ? fill(gettext("%(name)s (you)"), { name }) : name),
      says.length > 0 && el("small", {}, says.join(gettext(", "))),
      removable && button(gettext("Remove"), () => this.#remove(user, name), { kind: "plain", "aria-label": fill(gettext("Remove %(name)s"), { name }) }));
  }

  #fillForm() {
    const { elements } = this.#form;
    const { name, topic, ttl, ttl_max } = this.#room;
    elements.name.value = name;
    elements.topic.value = topic ?? "";
    const longest = this.#page.chat.limits.ttl_max;
    fillLifetimes(elements.ttl, { current: ttl, longest });
    fillLifetimes(elements.ttl_max, { current: ttl_max, longest });
    this.#shorten.open(this.#room, longest);
    api.roomDetails(this.#room.id).then((details) => {
      this.#room && details.room === this.#room.id && (this.#room.topic = details.topic) && !elements.topic.value && (elements.topic.value = details.topic);
    }, () => {});
  }

  async #save(event) {
    event.preventDefault();
    const room = this.#room;
    const { name, topic, ttl, ttl_max } = this.#form.elements;
    const wanted = { name: name.value.trim(), topic: topic.value.trim(), ttl: Number(ttl.value), ttl_max: Number(ttl_max.value) };
    if (wanted.ttl > wanted.ttl_max) return this.#say({ code: "bad_ttl" }, wanted.ttl_max);
    const mine = room.kind === "direct" ? ["ttl", "ttl_max"] : Object.keys(wanted);
    const changed = Object.fromEntries(mine.filter((field) => wanted[field] !== (room[field] ?? "")).map((field) => [field, wanted[field]]));
    if (!Object.keys(changed).length) return this.#sheet.hidePopover();
    await this.#try(async () => {
      await api.changeRoom(room.id, changed);
      room.topic = wanted.topic;
      this.#sheet.hidePopover();
    });
  }

  async #addMember(event) {
    event.preventDefault();
    const room = this.#room;
    const field = this.#add.elements.name;
    await this.#try(async () => {
      await api.addMember(room.id, field.value.trim());
      field.value = "";
      await this.#page.loadMembers(room);
    });
  }

  async #remove(user, name) {
    const room = this.#room;
    if (!(await this.#page.ask({ title: fill(gettext("Remove %(name)s from this room?"), { name }), effect: gettext("What they have not received yet is reported as “left the room”."), yes: gettext("Remove") }))) return;
    await this.#try(async () => {
      await api.removeMember(room.id, user);
      await this.#page.loadMembers(room);
    });
  }

  async #leave() {
    const room = this.#room;
    if (!(await this.#page.ask({ title: fill(gettext("Leave %(name)s?"), { name: room.name }), effect: gettext("What you sent stays until it expires."), yes: gettext("Leave") }))) return;
    await this.#try(async () => {
      await api.leaveRoom(room.id);
      this.#sheet.matches(":popover-open") && this.#sheet.hidePopover();
    });
  }

  async #try(action) {
    this.#say(null);
    try {
      await action();
    } catch (error) {
      this.#say(error);
    }
  }

  /** longest: of a lifetime that was refused, in seconds. */
  #say(error, longest = this.#page.chat.limits.ttl_max) {
    this.#error.hidden = !error;
    const bounds = error?.code === "bad_ttl" ? `: ${words.lifetimeBounds(this.#page.chat.limits.ttl_min, longest)}` : "";
    setText(this.#error, error ? words.refused(error.code) + bounds : "");
  }
}
