/**
 * The life of the page's one WebSocket: connect, say hello, stay alive, come back.
 *
 *   connecting -> open -> waiting -> connecting ...      ended: the server said not to come back
 *
 * A refused handshake looks like any other failure to a browser, so the check address is asked before the next try.
 * The backoff is rand(0, min(30 s, 0.5 s * 2^n)): up to 0.5, 1, 2, 4, 8, 16, 30, 30 ... s.
 */
import { CLOSE, encode, hello, mayReconnect, mayResetBackoff, parse, ping } from "./protocol.js";

const HEALTHY_MS = 10_000;
const WELCOME_TIMEOUT_MS = 15_000;
const QUIET_MS = 25_000; // a half-open connection stays silent for ever: ask
const PONG_TIMEOUT_MS = 10_000;
const LOST = 1006;

const ENDINGS = { [CLOSE.NO_SESSION]: "logged_out", [CLOSE.BANNED]: "banned", [CLOSE.OUTDATED]: "outdated" };

/** The longest wait before try n (from 0), in ms. */
export const backoffBound = (n) => Math.min(30_000, 500 * 2 ** n);

export class Socket {
  state = { name: "idle" };
  #url;
  #WebSocket;
  #check;
  #clock;
  #random;
  #rooms;
  #user;
  #on;
  #ws = null;
  #timer = null;
  #watch = null;
  #failures = 0;
  #welcomed_at = null;
  #bye_ms = null;
  #handshake_failed = false;
  #turn = 0;
  #pings = 0;
  #frame_limit;

  /**
   * check: async () => HTTP status of the check address, 0 when it cannot be reached.
   * clock: {now, set(fn, ms), clear(handle)}. rooms: () => the rooms of `hello`. user: whose page
   * this is. on: {state, frame, closed, batch?}.
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
    if (this.#handshake_failed) this.#askFirst();
    else this.#dial();
  }

  /** The network is back or the tab is shown: no reason to wait any longer. */
  wake() {
    if (this.state.name === "waiting") this.connect();
    else if (this.isOpen) this.probe();
  }

  /** Ask whether the connection is alive; without an answer it is dropped. */
  probe() {
    if (this.isOpen) this.#probe();
  }

  /** Send a frame or an array of frames; false when it cannot leave now or is too big. */
  send(frames) {
    if (!this.isOpen) return false;
    const text = encode(frames, this.#frame_limit);
    if (text === null) return false;
    this.#ws.send(text);
    return true;
  }

  async #askFirst() {
    const turn = ++this.#turn;
    const status = await this.#check();
    if (turn !== this.#turn) return;
    if (status === 401) return this.#end(CLOSE.NO_SESSION);
    if (status === 403) return this.#end(CLOSE.BANNED);
    if (status === 204) return this.#dial();
    this.#wait();
  }

  #dial() {
    const ws = new this.#WebSocket(this.#url);
    let opened = false;
    this.#ws = ws;
    this.#welcomed_at = null;
    this.#bye_ms = null;
    ws.onopen = () => {
      opened = true;
      ws.send(JSON.stringify(hello(this.#rooms())));
    };
    ws.onmessage = (event) => this.#receive(event.data);
    ws.onclose = (event) => {
      this.#handshake_failed = !opened;
      this.#lost(event.code);
    };
    this.#watchFor(WELCOME_TIMEOUT_MS, () => this.#drop());
  }

  #receive(data) {
    if (this.isOpen) this.#watchFor(QUIET_MS, () => this.#probe());
    for (const frame of parse(data)) if (this.#ws) this.#take(frame);
    this.#on.batch?.();
  }

  #take(frame) {
    if (frame.type === "welcome") {
      // Somebody else logged in in another tab: what waits here is not theirs to send.
      if (frame.user.id !== this.#user) return this.#drop(CLOSE.NO_SESSION);
      this.#welcomed_at = this.#clock.now();
      this.#frame_limit = frame.limits.frame;
      this.#watchFor(QUIET_MS, () => this.#probe());
      this.#on.frame(frame);
      this.#become({ name: "open" });
      return;
    }
    if (frame.type === "bye") this.#bye_ms = frame.after_ms ?? 0;
    if (frame.type !== "pong") this.#on.frame(frame);
  }

  #probe() {
    this.send(ping(++this.#pings));
    this.#watchFor(PONG_TIMEOUT_MS, () => this.#drop());
  }

  /** A dead peer answers no close frame either, so the socket is let go without waiting for it. */
  #drop(ending = null) {
    const ws = this.#ws;
    ws.onopen = ws.onmessage = ws.onclose = null;
    ws.close();
    this.#lost(LOST, ending);
  }

  #lost(code, ending = null) {
    this.#clock.clear(this.#watch);
    this.#ws = null;
    const healthy = this.#welcomed_at !== null && this.#clock.now() - this.#welcomed_at >= HEALTHY_MS;
    if (healthy && mayResetBackoff(code)) this.#failures = 0;
    const said_hello = !this.#handshake_failed;
    // Another tab may have changed the password and carry the new session already: only the check knows whether this browser's is over.
    if (code === CLOSE.NO_SESSION) this.#handshake_failed = true;
    if (ending !== null) this.#end(ending);
    else if (code === CLOSE.NO_SESSION || mayReconnect(code)) this.#wait();
    else this.#end(code);
    if (said_hello) this.#on.closed(code);
  }

  #wait() {
    const bound = this.#bye_ms ?? backoffBound(this.#failures);
    this.#failures += 1;
    this.#bye_ms = null;
    const delay = this.#random() * bound;
    this.#timer = this.#clock.set(() => this.connect(), delay);
    this.#become({ name: "waiting", retry_at: this.#clock.now() + delay });
  }

  #end(code) {
    this.#become({ name: "ended", why: ENDINGS[code] });
  }

  #watchFor(ms, action) {
    this.#clock.clear(this.#watch);
    this.#watch = this.#clock.set(action, ms);
  }

  #become(state) {
    this.state = state;
    this.#on.state(state);
  }
}
