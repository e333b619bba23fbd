/**
 * What the socket does not say and the page asks over HTTP: a room's members, how its lifetime was changed, who still lacks a
 * message, and receipts of messages that everybody has (the server tells at once only what is not complete).
 */
import * as api from "./api.js";

const RECEIPTS_COME_MS = 2000; // those that come by themselves are gathered for a second
const RECEIPTS_ASKED_MOST = 20;
const DIRECT_ASKED_MOST = 30;
const NAMES_MOST = 3;

export class Learner {
  #chat;
  #is_open;
  #learned;
  #lacking = new Map(); // "room|seq" -> {delivered, people}: as of so many deliveries
  #receipts_timer = null;
  #direct_timer = null;

  /** isOpen(room): it is in sight. learned(room): something new is known of it. */
  constructor({ chat, isOpen, learned }) {
    this.#chat = chat;
    this.#is_open = isOpen;
    this.#learned = learned;
  }

  async members(room) {
    const { members, total } = await api.members(room.id);
    room.members = members;
    room.members_total = total;
    this.#learned(room);
  }

  /** Who changed the room's lifetime, and when, unless nothing can have changed since it was asked. */
  async lifetimes(room) {
    if (room.lifetimes_known) return;
    room.lifetimes_known = true;
    try {
      room.lifetimes = (await api.lifetimes(room.id)).lifetimes;
    } catch {
      room.lifetimes_known = false; // the next look asks again
      return;
    }
    this.#learned(room);
  }

  /** The first of those who lack a message, [{name, reason, attempts}], as far as they were asked for. */
  lacking(room, seq) {
    return this.#lacking.get(`${room.id}|${seq}`)?.people ?? null;
  }

  /** Ask who lacks a message, once for each count of deliveries. */
  async askLacking(room, seq) {
    const place = `${room.id}|${seq}`;
    const known = this.#lacking.get(place);
    const delivered = room.receipts.get(seq)?.delivered ?? 0;
    if (known?.delivered === delivered) return;
    this.#lacking.set(place, { delivered, people: known?.people ?? null });
    const answer = await api.recipients(room.id, seq).catch(() => null);
    if (!answer) return;
    const people = answer.recipients.filter((one) => one.state === "waiting");
    this.#lacking.set(place, { delivered, people: people.slice(0, NAMES_MOST) });
    this.#learned(room);
  }

  /** How far the open room's own messages have come, newest first. */
  receipts(room) {
    clearTimeout(this.#receipts_timer);
    this.#receipts_timer = setTimeout(async () => {
      for (const message of room.untold.slice(0, RECEIPTS_ASKED_MOST)) {
        if (!this.#is_open(room) || !(await this.#receipt(room, message))) return;
      }
    }, RECEIPTS_COME_MS);
  }

  /** Direct rooms: who the partner is, for face and presence, and whether the last word was read. */
  async direct() {
    clearTimeout(this.#direct_timer);
    this.#direct_timer = setTimeout(() => this.#lastWords(), RECEIPTS_COME_MS);
    for (const room of this.#directRooms()) if (!room.members) await this.members(room).catch(() => {});
  }

  async #lastWords() {
    for (const room of this.#directRooms()) {
      const last = room.log.list.at(-1);
      if (last && room.isOwn(last) && !room.receipts.has(last.seq)) await this.#receipt(room, last);
    }
  }

  async #receipt(room, { seq }) {
    const known = await api.recipients(room.id, seq).catch(() => null);
    if (!known) return false;
    if (!room.receipts.has(seq)) room.takeReceipts([[seq, known.delivered, known.read, known.total]]);
    this.#learned(room);
    return true;
  }

  #directRooms() {
    return [...this.#chat.rooms.values()].filter((room) => room.kind === "direct" && !room.left).slice(0, DIRECT_ASKED_MOST);
  }
}
