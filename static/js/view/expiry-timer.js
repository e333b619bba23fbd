/** Removes expired messages and updates remaining times, at the moment when they change. */
import { offerAt } from "../model/delivery-state.js";
import { Ticker } from "../model/ticker.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { Clock } from "../model/protocol.js" */
/** @import { MessageDetails } from "./message-details.js" */
/** @import { Notices } from "./notices.js" */
/** @import { ServerClock } from "../model/server-clock.js" */
/** @import { Timeline } from "./timeline.js" */

const SHORTEST_MS = 50; // a change that is due at once waits this long, so that the page can draw in between
const COUNTDOWN_MS = 1000;

export class ExpiryTimer {
  #chat;
  #serverClock;
  #timeline;
  #messageDetails;
  #notices;
  #ticker;

  /**
   * @param {{
   *   chat: Chat, clock: Clock, serverClock: ServerClock, timeline: Timeline, messageDetails: MessageDetails,
   *   notices: Notices,
   * }} parts
   */
  constructor({ chat, clock, serverClock, timeline, messageDetails, notices }) {
    this.#chat = chat;
    this.#serverClock = serverClock;
    this.#timeline = timeline;
    this.#messageDetails = messageDetails;
    this.#notices = notices;
    this.#ticker = new Ticker({ clock, tick: () => this.#tick() });
  }

  run() {
    this.#ticker.run();
  }

  /** Returns ms until the next change. */
  #tick() {
    const now = this.#serverClock.now();
    this.#chat.expire();
    let wait = this.#timeline.tick(now);
    for (const room of this.#chat.rooms.values()) {
      for (const { expires_at } of room.log.list) wait = Math.min(wait, expires_at - now);
      for (const message of room.onTheWay) if (offerAt(message) > now) wait = Math.min(wait, offerAt(message) - now);
    }
    if (this.#messageDetails.isOpen) {
      this.#messageDetails.tick();
      wait = Math.min(wait, COUNTDOWN_MS);
    }
    this.#notices.render();
    return Math.max(SHORTEST_MS, wait);
  }
}
