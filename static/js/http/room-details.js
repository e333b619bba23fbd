/**
 * Data that the page loads over HTTP, because the socket does not send it: a room's members, the changes of its lifetime, the
 * recipients to whom a message is undelivered, and the receipts of completely delivered messages after a reload.
 */
import * as api from "./api.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { Room } from "../model/room.js" */
/** @import { Recipient } from "./api.js" */

const RECEIPTS_AFTER_MS = 2000; // the server collects receipts for a second before it sends them
const MAX_RECEIPTS = 20;
const MAX_DIRECT_ROOMS = 30;
const MAX_NAMES = 3;

export class RoomDetails {
  #chat;
  #isOpen;
  #changed;
  /** @type {Map<string, {delivered: number, people: Recipient[] | null}>} */
  #undelivered = new Map(); // "room|seq" -> the first recipients, as of a count of deliveries
  #receiptsTimer = 0;
  #directTimer = 0;

  /**
   * isOpen(room): the user sees it. changed(room): something about it was loaded.
   *
   * @param {{chat: Chat, isOpen: (room: Room) => boolean, changed: (room: Room) => void}} parts
   */
  constructor({ chat, isOpen, changed }) {
    this.#chat = chat;
    this.#isOpen = isOpen;
    this.#changed = changed;
  }

  /** @param {Room} room */
  async loadMembers(room) {
    const { members, total } = await api.members(room.id);
    room.members = members;
    room.membersTotal = total;
    this.#changed(room);
  }

  /** Load the changes of the room's lifetime, unless they are up to date. @param {Room} room */
  async loadLifetimes(room) {
    if (room.lifetimesKnown) return;
    room.lifetimesKnown = true;
    try {
      room.lifetimes = (await api.lifetimes(room.id)).lifetimes;
    } catch {
      room.lifetimesKnown = false; // loaded when the room is shown again
      return;
    }
    this.#changed(room);
  }

  /**
   * The first recipients to whom a message is undelivered, or null when they are not loaded.
   *
   * @param {Room} room
   * @param {number} seq
   */
  undelivered(room, seq) {
    return this.#undelivered.get(`${room.id}|${seq}`)?.people ?? null;
  }

  /** Load these recipients, once for each count of deliveries. @param {Room} room @param {number} seq */
  async loadUndelivered(room, seq) {
    const key = `${room.id}|${seq}`;
    const known = this.#undelivered.get(key);
    const delivered = room.receipts.get(seq)?.delivered ?? 0;
    if (known?.delivered === delivered) return;
    this.#undelivered.set(key, { delivered, people: known?.people ?? null });
    const answer = await api.recipients(room.id, seq).catch(() => null);
    if (!answer) return;
    const people = answer.recipients.filter(({ state }) => state === "waiting");
    this.#undelivered.set(key, { delivered, people: people.slice(0, MAX_NAMES) });
    this.#changed(room);
  }

  /** Load missing receipts of the open room's own messages, newest first. @param {Room} room */
  loadReceipts(room) {
    clearTimeout(this.#receiptsTimer);
    this.#receiptsTimer = setTimeout(async () => {
      for (const { seq } of room.withoutReceipt.slice(0, MAX_RECEIPTS)) {
        if (!this.#isOpen(room) || !(await this.#loadReceipt(room, seq))) return;
      }
    }, RECEIPTS_AFTER_MS);
  }

  /** For direct rooms: the partner, for name and presence, and the receipt of the last message. */
  async loadDirectRooms() {
    clearTimeout(this.#directTimer);
    this.#directTimer = setTimeout(() => this.#loadLastReceipts(), RECEIPTS_AFTER_MS);
    for (const room of this.#directRooms()) if (!room.members) await this.loadMembers(room).catch(() => {});
  }

  async #loadLastReceipts() {
    for (const room of this.#directRooms()) {
      const last = room.log.list.at(-1);
      if (last && room.isOwn(last) && !room.receipts.has(last.seq)) await this.#loadReceipt(room, last.seq);
    }
  }

  /** @param {Room} room @param {number} seq */
  async #loadReceipt(room, seq) {
    const answer = await api.recipients(room.id, seq).catch(() => null);
    if (!answer) return false;
    if (!room.receipts.has(seq)) this.#chat.takeReceipts(room, [[seq, answer.delivered, answer.read, answer.total]]);
    this.#changed(room);
    return true;
  }

  #directRooms() {
    return [...this.#chat.rooms.values()].filter((room) => room.kind === "direct" && !room.left).slice(0, MAX_DIRECT_ROOMS);
  }
}
