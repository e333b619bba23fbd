/**
 * A Socket.IO client on the bare wire (Engine.IO 4 over WebSocket): lighter than the library, so that the generator is not the
 * limit. "40" connects, "42[...]" is an event, "42<n>[...]" one that asks for "43<n>[...]", "2" a ping.
 */
import { Wire } from "./wire.mjs";

export class SocketIoClient extends Wire {
  #room;
  #on;

  constructor({ port, room, on }) {
    super(port, "/socket.io/?EIO=4&transport=websocket");
    this.#room = room;
    this.#on = on;
  }

  ready() {
    return new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.socket.on("error", reject);
      this.socket.on("close", (code) => this.#on.closed(code));
      this.socket.on("message", (data) => this.#take(data.toString()));
    });
  }

  send(number, body) {
    this.socket.send(`42${number}${JSON.stringify(["message", body])}`);
  }

  #take(packet) {
    if (packet.startsWith("42")) {
      const [event, value] = JSON.parse(packet.slice(2));
      if (event === "message") this.#on.delivered(value);
      else if (event === "joined") this.resolve();
    } else if (packet.startsWith("43")) this.#answer(packet);
    else if (packet === "2") this.socket.send("3");
    else if (packet.startsWith("0")) this.socket.send(`40${JSON.stringify({ room: this.#room })}`);
    else if (packet.startsWith("44")) this.#on.failed("refused");
  }

  #answer(packet) {
    const end = packet.indexOf("[");
    this.#on.answered(+packet.slice(2, end));
  }
}
