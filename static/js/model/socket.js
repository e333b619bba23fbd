/**
 * The life of the page's one WebSocket: connect, send hello, stay alive, reconnect.
 *
 *   connecting -> open -> waiting -> connecting ...      ended: the server refused any reconnect
 *
 * A refused handshake looks like any other failure to a browser, so the check address is requested before the next attempt.
 * The backoff is rand(0, min(30 s, 0.5 s * 2^n)): up to 0.5, 1, 2, 4, 8, 16, 30, 30 ... s.
 */
import { CLOSE, encode, hello, mayReconnect, mayResetBackoff, parse, ping } from "./protocol.js";

/** @import { Clock, Frame } from "./protocol.js" */

/**
 * retryAt: epoch ms. why: of "ended".
 *
 * @typedef {{name: "idle" | "connecting" | "open" | "waiting" | "ended", retryAt?: number, why?: string}} SocketState
 */

const HEALTHY_MS = 10_000;
const WELCOME_TIMEOUT_MS = 15_000;
const QUIET_MS = 25_000; // a half-open connection stays silent for ever: send a ping
const PONG_TIMEOUT_MS = 10_000;
const OFFLINE_PONG_TIMEOUT_MS = 3_000; // shorter, because the browser reports that there is no network
const LOST = 1006;

/** @type {Record<number, string>} */
const ENDINGS = { [CLOSE.NO_SESSION]: "logged_out", [CLOSE.BANNED]: "banned", [CLOSE.OUTDATED]: "outdated" };

/** The longest wait before attempt n (from 0), in ms. @param {number} n */
export const backoffBound = (n) => Math.min(30_000, 500 * 2 ** n);

export class Socket {
  /** @type {SocketState} */
  state = { name: "idle" };
  #url;
  #WebSocket;
  #check;
  #clock;
  #random;
  #rooms;
  #user;
  #on;
  /** @type {WebSocket | null} */
  #ws = null;
  /** @type {any} */
  #timer = null;
  /** @type {any} */
  #watch = null;
  #failures = 0;
  /** @type {number | null} */
  #welcomedAt = null;
  /** @type {number | null} */
  #byeMs = null;
  #handshakeFailed = false;
  #checks = 0;
  #pings = 0;
  /** @type {number | undefined} */
  #frameLimit;

  /**
   * check(): the HTTP status of the check address, 0 when it cannot be reached. rooms(): the rooms of `hello`. user: the
   * owner of this page. on.closed: a connection that had been opened was closed. on.batch: all frames of one text were given.
   *
   * @param {{
   *   url: string,
   *   WebSocket: new (url: string) => WebSocket,
   *   check: () => Promise<number>,
   *   clock: Clock,
   *   random?: () => number,
   *   rooms: () => object[],
   *   user: number,
   *   on: {state: (state: SocketState) => void, frame: (frame: Frame) => void, closed: (code: number) => void, batch?: () => void},
   * }} parts
   */
  constructor({ url, WebSocket, check, clock, random = Math.random, rooms, user, on }) {
    this.#url = url;
    this.#WebSocket = WebSocket;
    this.#check = check;
    this.#clock = clock;
    this.#random = random;
    this.#rooms = rooms;
    this.#user = user;
    this.#on = on;
  }

  get isOpen() {
    return this.state.name === "open";
  }

  connect() {
    if (["connecting", "open", "ended"].includes(this.state.name)) return;
    this.#clock.clear(this.#timer);
    this.#timer = null;
    this.#become({ name: "connecting" });
    if (this.#handshakeFailed) this.#checkFirst();
    else this.#dial();
  }

  /** The network is back or the tab is shown: stop waiting. */
  wake() {
    if (this.state.name === "waiting") this.connect();
    else if (this.isOpen) this.#probe();
  }

  /** The browser reports that there is no network: drop the connection unless the server still answers. */
  networkLost() {
    if (this.isOpen) this.#probe(OFFLINE_PONG_TIMEOUT_MS);
  }

  /** Send a frame or an array of frames; false when there is no connection or they are too big. @param {object} frames */
  send(frames) {
    if (!this.isOpen || !this.#ws) return false;
    const text = encode(frames, this.#frameLimit);
    if (text === null) return false;
    this.#ws.send(text);
    return true;
  }

  async #checkFirst() {
    const check = ++this.#checks;
    const status = await this.#check();
    if (check !== this.#checks) return;
    if (status === 401) return this.#end(CLOSE.NO_SESSION);
    if (status === 403) return this.#end(CLOSE.BANNED);
    if (status === 204) return this.#dial();
    this.#wait();
  }

  #dial() {
    const ws = new this.#WebSocket(this.#url);
    let opened = false;
    this.#ws = ws;
    this.#welcomedAt = null;
    this.#byeMs = null;
    ws.onopen = () => {
      opened = true;
      ws.send(JSON.stringify(hello(this.#rooms())));
    };
    ws.onmessage = (event) => this.#receive(event.data);
    ws.onclose = (event) => {
      this.#handshakeFailed = !opened;
      this.#lost(event.code);
    };
    this.#watchFor(WELCOME_TIMEOUT_MS, () => this.#drop());
  }

  /** @param {string} data */
  #receive(data) {
    if (this.isOpen) this.#watchFor(QUIET_MS, () => this.#probe());
    for (const frame of parse(data)) if (this.#ws) this.#handle(frame);
    this.#on.batch?.();
  }

  /** @param {Frame} frame */
  #handle(frame) {
    if (frame.type === "welcome") {
      // Someone else logged in in another tab: they must not send the messages that wait here.
      if (frame.user.id !== this.#user) return this.#drop(CLOSE.NO_SESSION);
      this.#welcomedAt = this.#clock.now();
      this.#frameLimit = frame.limits.frame;
      this.#watchFor(QUIET_MS, () => this.#probe());
      this.#on.frame(frame);
      this.#become({ name: "open" });
      return;
    }
    if (frame.type === "bye") this.#byeMs = frame.after_ms ?? 0;
    if (frame.type !== "pong") this.#on.frame(frame);
  }

  /** Send a ping; without an answer the connection is dropped. */
  #probe(timeoutMs = PONG_TIMEOUT_MS) {
    this.send(ping(++this.#pings));
    this.#watchFor(timeoutMs, () => this.#drop());
  }

  /** A dead peer does not answer a close frame either, so do not wait for it. @param {number | null} ending */
  #drop(ending = null) {
    const ws = this.#ws;
    if (!ws) return;
    ws.onopen = ws.onmessage = ws.onclose = null;
    ws.close();
    this.#lost(LOST, ending);
  }

  /** @param {number} code @param {number | null} ending */
  #lost(code, ending = null) {
    this.#clock.clear(this.#watch);
    this.#ws = null;
    const healthy = this.#welcomedAt !== null && this.#clock.now() - this.#welcomedAt >= HEALTHY_MS;
    if (healthy && mayResetBackoff(code)) this.#failures = 0;
    const saidHello = !this.#handshakeFailed;
    // Another tab may have changed the password and have a new session: only the check shows whether this browser is logged out.
    if (code === CLOSE.NO_SESSION) this.#handshakeFailed = true;
    if (ending !== null) this.#end(ending);
    else if (code === CLOSE.NO_SESSION || mayReconnect(code)) this.#wait();
    else this.#end(code);
    if (saidHello) this.#on.closed(code);
  }

  #wait() {
    const bound = this.#byeMs ?? backoffBound(this.#failures);
    this.#failures += 1;
    this.#byeMs = null;
    const delay = this.#random() * bound;
    this.#timer = this.#clock.set(() => this.connect(), delay);
    this.#become({ name: "waiting", retryAt: this.#clock.now() + delay });
  }

  /** @param {number} code */
  #end(code) {
    this.#become({ name: "ended", why: ENDINGS[code] });
  }

  /** @param {number} ms @param {() => void} action */
  #watchFor(ms, action) {
    this.#clock.clear(this.#watch);
    this.#watch = this.#clock.set(action, ms);
  }

  /** @param {SocketState} state */
  #become(state) {
    this.state = state;
    this.#on.state(state);
  }
}
