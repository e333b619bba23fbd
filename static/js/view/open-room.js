/** Which room is open, and the page's address: /r/<room>/, /r/<room>/<seq>/ for a message, / for the list of rooms. */
import { find, setAttribute } from "./dom.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { Composer } from "./composer.js" */
/** @import { RoomDetails } from "../http/room-details.js" */
/** @import { Timeline } from "./timeline.js" */

/** @typedef {{room: string | null, seq: number | null}} Place */

const TWO_PANES = "(width >= 900px)";

export class OpenRoom {
  /** @type {string | null} */
  #id = null;
  #app = find("[data-app]");
  #chat;
  #timeline;
  #composer;
  #roomDetails;
  #wanted;
  #draw;

  /**
   * wanted: the room and the message in the page's address. draw(): the open room changed.
   *
   * @param {{chat: Chat, timeline: Timeline, composer: Composer, roomDetails: RoomDetails, wanted: Place, draw: () => void}} parts
   */
  constructor({ chat, timeline, composer, roomDetails, wanted, draw }) {
    this.#chat = chat;
    this.#timeline = timeline;
    this.#composer = composer;
    this.#roomDetails = roomDetails;
    this.#wanted = wanted;
    this.#draw = draw;
    addEventListener("popstate", () => this.#followAddress());
    find("[data-back]").addEventListener("click", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.close();
      find(".room-link[aria-current]")?.focus();
    });
  }

  get id() {
    return this.#id;
  }

  get room() {
    return this.#id === null ? null : (this.#chat.rooms.get(this.#id) ?? null);
  }

  /**
   * push: into the browser's history. seq: of a message to show.
   *
   * @param {string} id
   * @param {{push?: boolean, seq?: number | null}} options
   */
  open(id, { push = true, seq = null } = {}) {
    if (push && (id !== this.#id || this.#app.dataset.view !== "room")) history.pushState(null, "", `/r/${encodeURIComponent(id)}/`);
    this.#wanted = { room: id, seq };
    setAttribute(this.#app, "data-view", "room");
    this.show();
  }

  close({ push = true } = {}) {
    if (push) history.pushState(null, "", "/");
    this.#wanted = { room: null, seq: null };
    setAttribute(this.#app, "data-view", "rooms");
    this.#timeline.seen();
    this.#draw();
  }

  /** Whether `show` is due after a change of this room. @param {{id: string}} room */
  needsShow(room) {
    return this.#wanted.room === room.id || (this.#id === room.id && this.#timeline.room !== room);
  }

  /** Show the wanted room as soon as it is known. */
  show() {
    const { room: wantedId, seq } = this.#wanted;
    const room = wantedId === null ? undefined : this.#chat.rooms.get(wantedId);
    if (!room) return this.#showNoRoom();
    find("[data-no-room]").hidden = true;
    find("[data-room]").hidden = false;
    const isOpen = this.#id === room.id && this.#timeline.room === room;
    this.#id = room.id;
    if (!isOpen) {
      this.#timeline.open(room, seq);
      this.#composer.open(room);
      this.#roomDetails.loadMembers(room).catch(() => {});
      this.#roomDetails.loadLifetimes(room);
      this.#roomDetails.loadReceipts(room);
      if (matchMedia(`${TWO_PANES} and (pointer: fine)`).matches) this.#composer.focus();
    } else if (seq !== null) {
      this.#timeline.link(seq);
    }
    this.#wanted = { room: room.id, seq: null };
    this.#timeline.seen();
    this.#draw();
  }

  #showNoRoom() {
    if (this.#id !== null) return;
    find("[data-no-room]").hidden = false;
    find("[data-room]").hidden = true;
    // An empty second pane looks broken: open the newest room.
    if (this.#chat.rooms.size === 0 || this.#wanted.room !== null || !matchMedia(TWO_PANES).matches) return;
    const newest = find("[data-rooms] a.room-link[href^='/r/']");
    this.#wanted = { room: newest ? roomOf(newest.pathname) : [...this.#chat.rooms.keys()][0], seq: null };
    this.show();
  }

  #followAddress() {
    const room = roomOf(location.pathname);
    const seq = location.pathname.split("/")[3];
    if (room === null) this.close({ push: false });
    else this.open(room, { push: false, seq: seq ? Number(seq) : null });
  }
}

/** @param {string} path */
function roomOf(path) {
  const [, prefix, id] = path.split("/");
  return prefix === "r" && id ? decodeURIComponent(id) : null;
}
