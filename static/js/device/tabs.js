/**
 * A user's tabs in this browser: exactly one of them sends, and each tells the others what it changed in the shared outbox.
 */

/** @import { Frame } from "../model/protocol.js" */

export class Tabs {
  #name;
  #channel;
  #isSender = false;

  /** @param {number} user */
  constructor(user) {
    this.#name = `chat-outbox-${user}`;
    this.#channel = new BroadcastChannel(this.#name);
  }

  /** This tab wrote to the device's outbox. */
  tellChanged() {
    this.#channel.postMessage({ changed: true });
  }

  /** The server accepted a message. Only the tab that sends informs the others. @param {Frame} sent */
  tellSent(sent) {
    if (this.#isSender) this.#channel.postMessage({ sent });
  }

  /** @param {{changed: () => void, sent: (sent: Frame) => void}} on  handlers for the changes of another tab */
  listen(on) {
    this.#channel.onmessage = ({ data }) => (data.sent ? on.sent(data.sent) : on.changed());
  }

  /** Call becomeSender as soon as no other tab is the sender. @param {() => void} becomeSender */
  waitToSend(becomeSender) {
    const start = () => {
      this.#isSender = true;
      becomeSender();
    };
    if (!navigator.locks) return start();
    navigator.locks.request(this.#name, () => {
      start();
      return new Promise(() => {}); // held until this tab is closed
    });
  }
}
