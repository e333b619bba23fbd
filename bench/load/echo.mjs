/** A client of the tutorial's chat and of the raw broadcast: a room in the path, {"message": body} both ways, no answers. */
import WebSocket from "ws";

export class EchoClient {
  #socket;
  #on;

  constructor({ port, room, on }) {
    this.#on = on;
    this.#socket = new WebSocket(`ws://127.0.0.1:${port}/ws/chat/${encodeURIComponent(room)}/`, {
      perMessageDeflate: false,
      skipUTF8Validation: true,
      headers: { Origin: `http://127.0.0.1:${port}` },
    });
  }

  ready() {
    return new Promise((resolve, reject) => {
      this.#socket.on("open", resolve);
      this.#socket.on("error", reject);
      this.#socket.on("close", (code) => this.#on.closed(code));
      this.#socket.on("message", (data) => this.#take(JSON.parse(data).message));
    });
  }

  send(number, body) {
    this.#socket.send(JSON.stringify({ message: body }));
  }

  pause() {
    this.#socket.pause();
  }

  resume() {
    this.#socket.resume();
  }

  close() {
    this.#socket.terminate();
  }

  /** One's own message coming back is the only answer there is. */
  #take(body) {
    const [sender, number] = this.#on.delivered(body);
    if (sender === this.#on.sender) this.#on.answered(number);
  }
}
