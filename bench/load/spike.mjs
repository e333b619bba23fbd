/** A client of the bare hot path (bench/peers/spike): room and user in the path, this project's frames without hello, ack and sync. */
import { randomUUID } from "node:crypto";
import { Wire, parse } from "./wire.mjs";

export class SpikeClient extends Wire {
  #on;
  #last = null;
  #numbers = new Map();

  constructor({ port, room, on }) {
    super(port, `/ws/chat/${room}/${on.sender}`);
    this.#on = on;
  }

  /** Resolves when the room is heard. */
  ready() {
    return new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.socket.on("error", reject);
      this.socket.on("close", (code) => this.#on.closed(code));
      this.socket.on("message", (data) => {
        for (const frame of parse(data)) this.#take(frame);
      });
    });
  }

  send(number, body) {
    const id = randomUUID();
    this.#numbers.set(id, number);
    this.socket.send(JSON.stringify({ type: "send", id, body }));
  }

  #take(frame) {
    if (frame.type === "message") this.#message(frame);
    else if (frame.type === "sent") this.#sent(frame);
    else if (frame.type === "joined") this.resolve();
  }

  #message(frame) {
    if (this.#last !== null && frame.seq !== this.#last + 1) this.#on.failed("a gap");
    this.#last = frame.seq;
    this.#on.delivered(frame.body);
  }

  #sent({ id }) {
    const number = this.#numbers.get(id);
    this.#numbers.delete(id);
    this.#on.answered(number);
  }
}
