/**
 * An MQTT 5 client as far as one room needs it: QoS 1 both ways, a session that outlives the connection. On the bare packets:
 * lighter than the library around them, so that the generator is not the limit.
 */
import net from "node:net";
import mqtt from "mqtt-packet";

const V5 = { protocolVersion: 5 };
const SESSION_S = 3_600;
const IDS = 65_535;
const REFUSED = 0x80;

export class MqttClient {
  #socket;
  #topic;
  #on;
  #packetId = 0;
  #numbers = new Map();

  constructor({ port, room, on }) {
    this.#topic = `room/${room}`;
    this.#on = on;
    this.#socket = net.connect({ port, host: "127.0.0.1", noDelay: true });
  }

  /** Resolves when the broker has the subscription. */
  ready() {
    return new Promise((resolve, reject) => {
      this.resolve = resolve;
      const parser = mqtt.parser(V5);
      parser.on("packet", (packet) => this.#take(packet));
      parser.on("error", reject);
      this.#socket.on("data", (data) => {
        this.#socket.cork(); // what is answered to one read leaves in one write
        parser.parse(data);
        this.#socket.uncork();
      });
      this.#socket.on("error", reject);
      this.#socket.on("close", () => this.#on.closed());
      this.#socket.on("connect", () =>
        this.#write({
          cmd: "connect",
          ...V5,
          clientId: `${this.#topic}/${this.#on.sender}`,
          clean: false,
          keepalive: 60,
          properties: { sessionExpiryInterval: SESSION_S },
        }),
      );
    });
  }

  send(number, body) {
    const messageId = this.#nextId();
    this.#numbers.set(messageId, number);
    this.#write({ cmd: "publish", topic: this.#topic, payload: body, qos: 1, messageId });
  }

  pause() {
    this.#socket.pause();
  }

  resume() {
    this.#socket.resume();
  }

  close() {
    this.#socket.destroy();
  }

  #nextId() {
    this.#packetId = (this.#packetId % IDS) + 1;
    return this.#packetId;
  }

  #write(packet) {
    this.#socket.write(mqtt.generate(packet, V5));
  }

  #take(packet) {
    if (packet.cmd === "publish") {
      this.#write({ cmd: "puback", messageId: packet.messageId });
      this.#on.delivered(packet.payload.toString());
    } else if (packet.cmd === "puback") this.#answered(packet);
    else if (packet.cmd === "connack") this.#connected(packet);
    else if (packet.cmd === "suback") this.resolve();
  }

  #connected({ reasonCode }) {
    if (reasonCode) this.#on.failed(`refused: ${reasonCode}`);
    else this.#write({ cmd: "subscribe", messageId: this.#nextId(), subscriptions: [{ topic: this.#topic, qos: 1 }] });
  }

  #answered({ messageId, reasonCode }) {
    if (reasonCode >= REFUSED) return this.#on.failed(`not taken: ${reasonCode}`);
    const number = this.#numbers.get(messageId);
    this.#numbers.delete(messageId);
    this.#on.answered(number);
  }
}
