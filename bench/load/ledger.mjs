/**
 * What was sent, what came, and whether it came as it must: every message of a sender once and in order at every member.
 * Bodies are "<run>|<sender>|<number>|<padding>", numbers counting from 0 for each client; what an earlier run left in a log
 * is not counted. Latencies: ms from send to answer and, at the probes, from send to delivery.
 */

const RUN = Math.random().toString(36).slice(2, 10).padEnd(8, "0");
const PADDING = "x".repeat(80);

export const bodyOf = (sender, number) => `${RUN}|${sender}|${number}|${PADDING}`;

const percentile = (sorted, share) => (sorted.length ? +sorted[Math.floor(share * (sorted.length - 1))].toFixed(2) : null);

export class Ledger {
  measuring = false;
  came = 0; // answers and deliveries, measured or not
  accepted = 0;
  deliveries = 0;
  twice = 0;
  unordered = 0;
  errors = new Map();
  #answers = [];
  #arrivals = [];

  /** A member's own account: next number due from each sender of its room. */
  open({ room, sender, probe }) {
    return { room, sender, probe, due: new Map(), sentAt: [], answered: 0 };
  }

  sent(account) {
    account.sentAt.push(performance.now());
    return account.sentAt.length - 1;
  }

  answered(account, number) {
    account.answered++;
    this.came++;
    if (!this.measuring) return;
    this.accepted++;
    this.#answers.push(performance.now() - account.sentAt[number]);
  }

  /** Note a body that reached `account`; `members` are its room's accounts. Returns [sender, number]. */
  delivered(account, body, members) {
    if (!body.startsWith(RUN)) return [];
    const start = RUN.length + 1;
    const bar = body.indexOf("|", start);
    const sender = +body.slice(start, bar);
    const number = +body.slice(bar + 1, body.indexOf("|", bar + 1));
    this.came++;
    const due = account.due.get(sender) ?? 0;
    if (number < due) this.twice++;
    else {
      if (number > due) this.unordered += number - due;
      account.due.set(sender, number + 1);
    }
    if (this.measuring) {
      this.deliveries++;
      if (account.probe) this.#arrivals.push(performance.now() - members[sender].sentAt[number]);
    }
    return [sender, number];
  }

  failed(what) {
    this.errors.set(what, (this.errors.get(what) ?? 0) + 1);
  }

  /** How many deliveries `rooms` (lists of accounts) still lack of what their senders sent. */
  missing(rooms) {
    let missing = 0;
    for (const members of rooms)
      for (const sender of members)
        if (sender.sentAt.length)
          for (const member of members) missing += sender.sentAt.length - (member.due.get(sender.sender) ?? 0);
    return missing;
  }

  report(elapsedS) {
    const answers = Float64Array.from(this.#answers).sort();
    const arrivals = Float64Array.from(this.#arrivals).sort();
    return {
      accepted_s: Math.round(this.accepted / elapsedS),
      deliveries_s: Math.round(this.deliveries / elapsedS),
      answer_ms: { p50: percentile(answers, 0.5), p99: percentile(answers, 0.99) },
      delivery_ms: { p50: percentile(arrivals, 0.5), p99: percentile(arrivals, 0.99) },
      twice: this.twice,
      unordered: this.unordered,
      errors: Object.fromEntries(this.errors),
    };
  }
}
