/**
 * How far an own message has come: sending -> sent -> delivering -> delivered -> read, never backwards. Failed replaces
 * only sending. Pure: what is known goes in, the state's name and the reach line come out.
 */

export const SEGMENTS_MOST = 12; // above that the line would be unreadable and becomes a bar
const OFFER_AT = 0.8; // of a message's life, while somebody still lacks it

/** receipt: {delivered, read, total} or undefined. */
export function stateOf(receipt) {
  if (!receipt || receipt.total === 0 || receipt.delivered === 0) return "sent";
  if (receipt.delivered < receipt.total) return "delivering";
  return receipt.read < receipt.total ? "delivered" : "read";
}

export function outboxState(item, in_flight, online) {
  if (item.state === "failed") return "failed";
  return item.reason || !(online || in_flight) ? "waiting" : "sending";
}

/** Cumulative counts only grow, so a late row never takes a tick back. */
export function mergeReceipt(old, [, delivered, read, total]) {
  return { delivered: Math.max(old?.delivered ?? 0, delivered), read: Math.max(old?.read ?? 0, read), total };
}

/** The line's segments in their fixed order. missed: those who never get it any more. */
export function segments({ delivered, read, total }, lacking = "waiting") {
  const with_it = Math.min(delivered, total);
  const seen = Math.min(read, with_it);
  return [...Array(seen).fill("read"), ...Array(with_it - seen).fill("delivered"), ...Array(total - with_it).fill(lacking)];
}

export const onTheWay = (receipt) => Boolean(receipt && receipt.total > 0 && receipt.delivered < receipt.total);

/** When Extend is offered, epoch ms. */
export const offerAt = ({ sent_at, expires_at }) => sent_at + OFFER_AT * (expires_at - sent_at);

export const offersExtend = (message, receipt, now) => onTheWay(receipt) && now >= offerAt(message) && now < message.expires_at;
