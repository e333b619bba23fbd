/**
 * The progress of an own message: sending -> sent -> delivering -> delivered -> read, never backwards. Failed replaces
 * only sending. Pure functions: receipts in, the name of the state and the segments of the reach line out.
 */

/**
 * How many recipients a message has reached.
 * @typedef {{delivered: number, read: number, total: number}} Receipt
 * @typedef {{sent_at: number, expires_at: number}} Life
 */

export const MAX_SEGMENTS = 12; // with more the line would be unreadable and becomes a bar
const OFFER_AT = 0.8; // of a message's life, while it is undelivered to someone

/** @param {Receipt | undefined} receipt */
export function stateOf(receipt) {
  if (!receipt || receipt.total === 0 || receipt.delivered === 0) return "sent";
  if (receipt.delivered < receipt.total) return "delivering";
  return receipt.read < receipt.total ? "delivered" : "read";
}

/**
 * @param {{state: string, reason: string | null}} item
 * @param {boolean} inFlight
 * @param {boolean} online
 */
export function outboxState(item, inFlight, online) {
  if (item.state === "failed") return "failed";
  return item.reason || !(online || inFlight) ? "waiting" : "sending";
}

/**
 * Merge a row [seq, delivered, read, total]. Cumulative counts only grow, so a late row never removes a tick.
 *
 * @param {Receipt | undefined} old
 * @param {number[]} row
 * @returns {Receipt}
 */
export function mergeReceipt(old, [, delivered, read, total]) {
  return { delivered: Math.max(old?.delivered ?? 0, delivered), read: Math.max(old?.read ?? 0, read), total };
}

/**
 * The segments of the line in their fixed order. undelivered: "waiting", or "missed" when the message has expired.
 *
 * @param {Receipt} receipt
 * @returns {string[]}
 */
export function segments({ delivered, read, total }, undelivered = "waiting") {
  const deliveredSegments = Math.min(delivered, total);
  const readSegments = Math.min(read, deliveredSegments);
  return [
    ...Array(readSegments).fill("read"),
    ...Array(deliveredSegments - readSegments).fill("delivered"),
    ...Array(total - deliveredSegments).fill(undelivered),
  ];
}

/** @param {Receipt | undefined} receipt @returns {receipt is Receipt} */
export const onTheWay = (receipt) => Boolean(receipt && receipt.total > 0 && receipt.delivered < receipt.total);

/** Delivered to all who owe it. @param {{delivered: number, total: number} | undefined} receipt */
export const isDelivered = (receipt) => Boolean(receipt && receipt.total > 0 && receipt.delivered >= receipt.total);

/** When Extend is offered, epoch ms. @param {Life} life */
export const offerAt = ({ sent_at, expires_at }) => sent_at + OFFER_AT * (expires_at - sent_at);

/** @param {Life} message @param {Receipt | undefined} receipt @param {number} now @returns {receipt is Receipt} */
export const offersExtend = (message, receipt, now) => onTheWay(receipt) && now >= offerAt(message) && now < message.expires_at;
