/**
 * A client of this project's protocol (docs/protocol.md), as far as one room needs it: holds the log by seq, syncs on every
 * gap, acknowledges within 250 ms. `slow` ones stop reading when told.
 */
import { randomUUID } from "node:crypto";
import { Wire, parse } from "./wire.mjs";

const ACK_AFTER_MS = 250;

export class ChatClient extends Wire {
  #room;
  #epoch = null;
  #last = 0;
  #syncing = false;
  #ackTimer = null;
  #numbers = new Map();
  #on;

  /** on: {delivered(body), answered(number), failed(what), closed(code)} */
  constructor({ port, room, cookie, on }) {
    super(port, "/ws/chat/", { Cookie: cookie, Origin: `http://127.0.0.1:${port}` });
    this.#room = room;
    this.#on = on;
  }

  /** Resolves when the room is resumed through its top. */
  ready() {
    return new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.socket.on("open", () => this.#write({ type: "hello", v: 1, rooms: [] }));
      this.socket.on("error", reject);
      this.socket.on("close", (code) => {
        clearTimeout(this.#ackTimer);
        this.#on.closed(code);
        reject(new Error(`closed with ${code}`));
      });
      this.socket.on("message", (data) => this.#take(parse(data)));
    });
  }

  send(number, body) {
    const id = randomUUID();
    this.#numbers.set(id, number);
    this.#write({ type: "send", id, room: this.#room, body });
  }

  #write(frame) {
    if (this.open) this.socket.send(JSON.stringify(frame));
  }

  #take(decoded) {
    if (!Array.isArray(decoded)) this.#frame(decoded);
    else for (const frame of decoded) this.#frame(frame);
  }

  #frame(frame) {
    if (frame.type === "message") this.#message(frame);
    else if (frame.type === "sent") this.#sent(frame);
    else if (frame.type === "welcome") this.#welcome(frame);
    else if (frame.type === "resumed") this.#resumed(frame);
    else if (frame.type === "position") this.#position(frame);
    else if (frame.type === "error") this.#error(frame);
  }

  #welcome(frame) {
    const room = frame.rooms.find((one) => one.room === this.#room);
    if (!room) return this.#on.failed("not a member of its room");
    this.#epoch = room.epoch;
    this.#last = room.delivered;
  }

  #message(frame) {
    if (frame.room !== this.#room) return;
    if (frame.epoch !== this.#epoch) return this.#on.failed("another epoch");
    const follows = frame.seq === this.#last + 1 || (frame.after <= this.#last && this.#last < frame.seq);
    if (follows) this.#accept(frame);
    else if (frame.seq > this.#last) this.#sync();
    else this.#ackLater();
  }

  #accept(frame) {
    this.#last = frame.seq;
    this.#on.delivered(frame.body);
    this.#ackLater();
  }

  #resumed(frame) {
    if (frame.room !== this.#room) return;
    const answersSync = frame.changed !== undefined;
    if (answersSync) this.#syncing = false;
    if (!frame.ok) return this.#on.failed(`resumed: ${frame.why}`);
    if (frame.from > this.#last) return this.#sync();
    for (const message of frame.messages) if (message.seq > this.#last) this.#accept(message);
    this.#last = Math.max(this.#last, frame.upto);
    if (frame.more) this.#sync();
    else this.resolve();
  }

  #position(frame) {
    if (frame.room === this.#room && frame.top > this.#last) this.#sync();
  }

  #sync() {
    if (this.#syncing) return;
    this.#syncing = true;
    this.#on.synced();
    this.#write({ type: "sync", room: this.#room, epoch: this.#epoch, since: this.#last });
  }

  #sent(frame) {
    const number = this.#numbers.get(frame.id);
    if (number === undefined) return;
    this.#numbers.delete(frame.id);
    this.#on.answered(number);
  }

  #error(frame) {
    this.#on.failed(frame.code);
  }

  #ackLater() {
    this.#ackTimer ??= setTimeout(() => {
      this.#ackTimer = null;
      this.#write({ type: "ack", rooms: [{ room: this.#room, epoch: this.#epoch, delivered: this.#last, late: [] }] });
    }, ACK_AFTER_MS);
  }
}
