/** A client of the tutorial's chat and of the raw broadcast: a room in the path, {"message": body} both ways, no answers. */
import { Wire, parse } from "./wire.mjs";

export class EchoClient extends Wire {
  #on;

  constructor({ port, room, on }) {
    super(port, `/ws/chat/${encodeURIComponent(room)}/`, { Origin: `http://127.0.0.1:${port}` });
    this.#on = on;
  }

  ready() {
    return new Promise((resolve, reject) => {
      this.socket.on("open", resolve);
      this.socket.on("error", reject);
      this.socket.on("close", (code) => this.#on.closed(code));
      this.socket.on("message", (data) => this.#take(parse(data).message));
    });
  }

  send(number, body) {
    this.socket.send(JSON.stringify({ message: body }));
  }

  /** One's own message coming back is the only answer there is. */
  #take(body) {
    const [sender, number] = this.#on.delivered(body);
    if (sender === this.#on.sender) this.#on.answered(number);
  }
}
