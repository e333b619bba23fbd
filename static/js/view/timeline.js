/**
 * The open room's timeline: keeps the elements equal to the entries, keeps the scroll position, and marks messages as read. It
 * draws with the frames of the screen; timeline-entries.js makes the entries.
 */
import { el, find, ring, setAttribute, setText } from "./dom.js";
import { entriesOf, expiringText, waitingText } from "../model/timeline-entries.js";
import { fill, gettext } from "../i18n.js";
import { offerAt, offersExtend } from "../model/delivery-state.js";
import { MessageView } from "./message-view.js";
import { RovingFocus } from "./roving-focus.js";
import { Tombstones } from "../model/tombstones.js";
import * as phrases from "../phrases.js";

/** @import { Chat, RoomChanges } from "../model/chat.js" */
/** @import { Clock, Message } from "../model/protocol.js" */
/** @import { Entry } from "../model/timeline-entries.js" */
/** @import { Outbox } from "../model/outbox.js" */
/** @import { Room } from "../model/room.js" */
/** @import { RoomDetails } from "../http/room-details.js" */
/** @import { ServerClock } from "../model/server-clock.js" */

/** A day, the divider or a lifetime change. @typedef {{element: any, shown: string}} Line */

const NEAR_BOTTOM_PX = 48;
const NEAR_TOP_PX = 600;
const MESSAGE_KINDS = ["message", "tombstone", "outbox"];
const FADE_MS = 650; // a little longer than the transition in the stylesheet
const LATE_MS = 2000; // a message that ended longer ago does not fade: the machine was asleep
const MAX_UNREAD_PAGES = 4;
const MAX_LINK_PAGES = 40;
const PROBLEM_MS = 8000;
const MAX_MESSAGES = 1200; // with more, the oldest are dropped while the newest are in view; paging brings them back
const TRIMMED_MESSAGES = 600;
const MIN_MESSAGES = 30; // fewer do not fill a screen

export class Timeline {
  /** @type {Room | null} */
  room = null;
  #chat;
  #outbox;
  #clock;
  #serverClock;
  #roomDetails;
  #isOnline;
  #act;
  #drawn;
  #isDrawing = false;
  #scroller = find("[data-timeline]");
  #log = find("[data-log]");
  #jump = find("[data-jump]");
  #empty = find("[data-empty-room]");
  #templates = { message: find("#message-template"), tombstone: find("#tombstone-template") };
  /** @type {Map<string, MessageView | Line>} */
  #views = new Map(); // by the entry's key
  /** @type {Entry[]} */
  #entries = [];
  /** @type {Map<number, Message>} */
  #leaving = new Map(); // messages that fade out, by seq
  /** @type {Map<number, {code: string}>} */
  #problems = new Map(); // by seq
  /** @type {Map<number, {by: number, until: number, from: number}>} */
  #extended = new Map(); // by seq; until: 0 while the answer is awaited
  /** @type {number | null} */
  #divider = null;
  /** @type {number | null} */
  #linked = null;
  #sticksToEnd = true;
  #isSettled = false; // the room has been scrolled to its first position
  #pagesLeft = 0; // to load in search of the first position
  #hadMessages = false;
  #rovingFocus;
  #drawnAt = 0;
  #lastAnnounced = 0; // seq

  /**
   * act(name, entry): the user chose an action on a message. drawn(): the entries on the screen changed.
   *
   * @param {{
   *   chat: Chat, outbox: Outbox, clock: Clock, serverClock: ServerClock,
   *   roomDetails: Pick<RoomDetails, "undelivered" | "loadUndelivered">, isOnline: () => boolean,
   *   act: (name: string, entry: Entry & {target?: number}) => void, drawn: () => void,
   * }} parts
   */
  constructor({ chat, outbox, clock, serverClock, roomDetails, isOnline, act, drawn }) {
    this.#chat = chat;
    this.#outbox = outbox;
    this.#clock = clock;
    this.#serverClock = serverClock;
    this.#roomDetails = roomDetails;
    this.#isOnline = isOnline;
    this.#act = act;
    this.#drawn = drawn;
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#scroller.style.overflowAnchor = "none"; // this class keeps the scroll position itself
    this.#jump.addEventListener("click", () => this.toLatest());
    this.#rovingFocus = new RovingFocus(this.#log);
    new ResizeObserver(() => this.#sticksToEnd && this.#toBottom()).observe(this.#scroller);
  }

  /** seq: of the message that a permalink names. @param {Room} room @param {number | null} seq */
  open(room, seq = null) {
    this.room = room;
    this.#views.clear();
    this.#entries = [];
    this.#leaving.clear();
    this.#problems.clear();
    this.#extended.clear();
    this.#log.replaceChildren();
    this.#rovingFocus.forget();
    this.#linked = seq;
    this.#sticksToEnd = seq === null;
    this.#isSettled = false;
    this.#hadMessages = false;
    this.#divider = room.read + 1; // removed in #findFirstPosition if no unread message is below it
    this.#pagesLeft = seq === null ? MAX_UNREAD_PAGES : MAX_LINK_PAGES;
    setAttribute(this.#log, "aria-label", fill(gettext("Messages in %(name)s"), { name: room.name }));
    this.render();
  }

  /** Render with the next frame of the screen. */
  draw() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    const run = () => {
      this.#isDrawing = false;
      this.render();
    };
    if (document.hidden)
      setTimeout(run, 0); // a hidden tab gets no frames
    else requestAnimationFrame(run);
  }

  /** The open room changed. @param {RoomChanges} changes */
  changed(changes) {
    for (const { message, reason } of changes.removed) if (reason === "expired" || reason === "deleted") this.#fade(message);
    for (const message of changes.changed) this.#noteExtension(message);
    if (changes.reset) this.#isSettled = false;
    if (changes.own) this.#sticksToEnd = true;
    this.draw();
  }

  /** The user sends a message. */
  wrote() {
    this.#sticksToEnd = true;
    this.#divider = null;
    this.draw();
  }

  /**
   * Show why an action was refused, long enough to read it; then the actions are offered again.
   *
   * @param {number} seq
   * @param {string} code
   */
  problem(seq, code) {
    const problem = { code };
    this.#problems.set(seq, problem);
    this.draw();
    this.#clock.set(() => {
      if (this.#problems.get(seq) !== problem) return;
      this.#problems.delete(seq);
      this.draw();
    }, PROBLEM_MS);
  }

  /** @param {number} seq */
  forgetProblem(seq) {
    this.#problems.delete(seq);
  }

  /**
   * The user extends a message; the result is shown when the answer arrives. by: seconds.
   *
   * @param {Message} message
   * @param {number} by
   */
  extending(message, by) {
    this.#extended.set(message.seq, { by, until: 0, from: message.expires_at });
  }

  render() {
    const { room } = this;
    if (!room) return;
    const now = this.#serverClock.now();
    this.#chat.expire([room]); // the frame may come before the timer
    if (this.#sticksToEnd && this.#isSettled && room.log.list.length > MAX_MESSAGES) room.log.trim(TRIMMED_MESSAGES);
    const anchor = this.#anchor();
    const before = new Set(this.#entries.map(({ key }) => key));
    this.#entries = entriesOf({
      room,
      now,
      localNow: this.#clock.now(),
      me: this.#chat.me,
      online: this.#isOnline(),
      limit: this.#chat.limits.body,
      outbox: this.#outbox.inRoom(room.id),
      inFlight: (id) => this.#outbox.isInFlight(id),
      tombstones: this.#chat.tombstones(room),
      leaving: [...this.#leaving.values()],
      divider: this.#divider,
      linked: this.#linked,
      problems: this.#problems,
      undelivered: (seq) => this.#roomDetails.undelivered(room, seq),
      extended: new Map([...this.#extended].filter(([, { until }]) => until > 0)),
      resending: (seq) => this.#chat.isResending(room.id, seq),
      changing: (seq) => this.#chat.isChanging(room.id, seq),
    });
    this.#setAnnouncing(room, before);
    this.#updateElements(now);
    this.#drawnAt = now;
    this.#restore(anchor);
    this.#showEmpty(room);
    this.#afterDrawing(room, now);
  }

  /** Called by the page's timer; returns ms until something here changes. @param {number} now */
  tick(now) {
    const { room } = this;
    if (!room) return Infinity;
    let wait = Infinity;
    let isStale = phrases.isoDay(now) !== phrases.isoDay(this.#drawnAt || now);
    for (const entry of this.#entries) {
      if (entry.item && entry.item.not_before > this.#clock.now()) {
        isStale ||= entry.shown.aside?.text !== waitingText(entry.item, this.#clock.now());
        wait = Math.min(wait, 1000);
      }
      if (entry.tombstone) {
        const left = Tombstones.endOf(entry.tombstone) - now;
        isStale ||= left <= 0;
        wait = left > 0 ? Math.min(wait, left) : wait;
      }
      const { message } = entry;
      if (!message) continue;
      this.#messageView(entry)?.tick(now);
      if (!entry.shown.expires_at) continue;
      wait = Math.min(wait, phrases.nextTick(message.expires_at - now));
      const receipt = room.receipts.get(message.seq);
      if (!entry.own) continue;
      if (offersExtend(message, receipt, now))
        isStale ||= entry.shown.aside?.text !== expiringText(message, receipt, this.#roomDetails.undelivered(room, message.seq), now);
      else if (now < offerAt(message)) wait = Math.min(wait, offerAt(message) - now);
    }
    if (isStale) this.draw();
    return wait;
  }

  toLatest() {
    this.#sticksToEnd = true;
    this.#toBottom();
    this.#scrolled();
    this.#log.querySelector("article:last-of-type")?.focus({ preventScroll: true });
  }

  /** Scroll to a message and focus it; false when it is not loaded. @param {number} seq */
  show(seq) {
    const view = [...this.#views.values()].find((candidate) => candidate instanceof MessageView && candidate.entry.shown.seq === seq);
    if (!view) return false;
    this.#sticksToEnd = false;
    view.element.scrollIntoView({ block: "center", behavior: "instant" });
    view.element.focus({ preventScroll: true });
    this.#scrolled();
    return true;
  }

  /** Go to a message, also when it is not loaded yet. @param {number} seq */
  link(seq) {
    if (!this.room) return;
    this.#linked = seq;
    this.render();
    if (this.show(seq)) return;
    this.#pagesLeft = MAX_LINK_PAGES;
    this.#isSettled = false;
    this.#chat.page(this.room.id, 100);
  }

  /** Mark the messages in view as read. */
  seen() {
    const { room } = this;
    if (!room || document.hidden || !this.#isSettled || this.#scroller.clientHeight === 0) return;
    const bottom = this.#scroller.getBoundingClientRect().bottom + 24;
    const last = this.#entries.findLast(
      (entry) => entry.kind === "message" && entry.seq < Infinity && this.#elementOf(entry)?.getBoundingClientRect().bottom <= bottom,
    );
    if (this.#atBottom()) this.#chat.read(room.id, room.log.last);
    else if (last) this.#chat.read(room.id, last.seq);
  }

  /** Focus the next own message that is undelivered to someone. */
  nextOnTheWay() {
    const seqs = this.room?.onTheWay.map(({ seq }) => seq) ?? [];
    const focused = Number(document.activeElement?.getAttribute("data-seq") ?? 0);
    const next = seqs.find((seq) => seq > focused) ?? seqs[0];
    if (next) this.show(next);
  }

  // ---- drawing

  /** @param {Entry} entry */
  #elementOf(entry) {
    return this.#views.get(entry.key)?.element;
  }

  /** @param {Entry} entry */
  #messageView(entry) {
    const view = this.#views.get(entry.key);
    return view instanceof MessageView ? view : null;
  }

  /**
   * Screen readers read aloud only new messages of others: not own messages, not earlier pages, not the first screen.
   *
   * @param {Room} room
   * @param {Set<string>} before  the keys of the entries that were on the screen
   */
  #setAnnouncing(room, before) {
    const added = this.#entries.filter((entry) => !before.has(entry.key) && entry.kind === "message");
    const announces = this.#isSettled && added.length > 0 && added.every((entry) => !entry.own && entry.seq > this.#lastAnnounced);
    setAttribute(this.#log, "aria-live", announces ? "polite" : "off");
    this.#lastAnnounced = Math.max(this.#lastAnnounced, room.log.last);
  }

  /** Make the elements equal to the entries. Equal elements stay untouched. @param {number} now */
  #updateElements(now) {
    const keys = new Set(this.#entries.map(({ key }) => key));
    let next = this.#log.firstChild;
    for (const entry of this.#entries) {
      const old = this.#elementOf(entry);
      const view = this.#viewOf(entry);
      if (view instanceof MessageView) {
        view.update(entry);
        view.tick(now);
      }
      if (old && old === next) next = view.element; // the element may have been replaced
      if (view.element === next) next = next.nextSibling;
      else this.#log.insertBefore(view.element, next);
      setAttribute(view.element, "data-leaving", entry.kind === "message" && this.#leaving.has(entry.seq));
    }
    for (const [key, view] of this.#views) {
      if (keys.has(key)) continue;
      if (view.element.contains(document.activeElement)) this.#rovingFocus.leave(view.element);
      view.element.remove();
      this.#views.delete(key);
    }
    this.#rovingFocus.update();
  }

  /** @param {Entry} entry */
  #viewOf(entry) {
    const old = this.#views.get(entry.key);
    const isMessage = MESSAGE_KINDS.includes(entry.kind);
    if (old && (isMessage || old.shown === JSON.stringify(entry.shown))) return old;
    const view = isMessage
      ? new MessageView({ templates: this.#templates, act: this.#act })
      : { element: lineOf(entry), shown: JSON.stringify(entry.shown) };
    if (old) old.element.replaceWith(view.element);
    this.#views.set(entry.key, view);
    return view;
  }

  /** @param {Room} room */
  #showEmpty(room) {
    const any = this.#entries.some(({ kind }) => MESSAGE_KINDS.includes(kind));
    this.#hadMessages ||= any;
    const waiting = room.log.hasMore && !any;
    this.#empty.hidden = any || waiting || room.left;
    this.#log.hidden = this.#entries.length === 0;
    if (this.#empty.hidden) return;
    const ended = this.#hadMessages || room.log.last > 0;
    const life = { life: phrases.duration(room.ttl) };
    setText(find("h3", this.#empty), ended ? gettext("All messages here have expired") : gettext("Nothing here yet"));
    setText(
      find("p", this.#empty),
      ended
        ? fill(
            room.tracked
              ? gettext("New messages last %(life)s. If someone missed one of yours, you will find it in your notices.")
              : gettext("New messages last %(life)s."),
            life,
          )
        : fill(
            room.tracked
              ? gettext("Messages here last %(life)s. Each is delivered, or still being retried, or you are told who missed it.")
              : gettext("Messages here last %(life)s. This room is not tracked: nobody is told who missed one."),
            life,
          ),
    );
    find("button", this.#empty).hidden = !ended || !room.tracked;
  }

  /** @param {Room} room @param {number} now */
  #afterDrawing(room, now) {
    this.#findFirstPosition(room);
    this.#drawn();
    this.#loadUndelivered(room, now);
    this.#showJump();
    this.seen();
    if (this.#scroller.scrollTop < NEAR_TOP_PX && this.#isSettled) this.#chat.page(room.id);
  }

  /**
   * A room opens at the message that a link names, or else at the first unread message, or else at the end.
   *
   * @param {Room} room
   */
  #findFirstPosition(room) {
    if (this.#isSettled) return;
    const { log, unread } = room;
    if (log.isCatchingUp) return;
    const wanted = this.#linked ?? (unread.count > 0 && this.#divider !== null ? this.#divider - 1 : Infinity);
    const few = log.list.length < MIN_MESSAGES;
    if (log.hasMore && (log.floor > wanted || few) && this.#pagesLeft > 0) {
      const isAsked = this.#chat.page(room.id, this.#linked === null ? 50 : 100);
      if (isAsked) this.#pagesLeft -= 1;
      if (isAsked || log.paging) return;
      if (!this.#isOnline()) return;
    }
    this.#isSettled = true;
    this.#lastAnnounced = log.last;
    if (unread.count === 0) this.#divider = null;
    if (this.#linked !== null) {
      if (!this.show(this.#linked)) this.#toBottom();
      return;
    }
    const divider = find(".since", this.#log);
    if (!divider) return this.#toBottom();
    divider.scrollIntoView({ block: "start", behavior: "instant" });
    this.#sticksToEnd = this.#atBottom();
  }

  /** @param {Room} room @param {number} now */
  #loadUndelivered(room, now) {
    for (const message of room.onTheWay)
      if (offersExtend(message, room.receipts.get(message.seq), now)) this.#roomDetails.loadUndelivered(room, message.seq);
  }

  /** @param {Message} message */
  #fade(message) {
    if (!this.room || this.room.isOwn(message)) return; // a tombstone replaces an own message
    if (this.#serverClock.now() - message.expires_at > LATE_MS) return;
    this.#leaving.set(message.seq, message);
    this.#clock.set(
      () => {
        this.#leaving.delete(message.seq);
        this.draw();
      },
      matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : FADE_MS,
    );
  }

  /** @param {Message} message */
  #noteExtension(message) {
    const extension = this.#extended.get(message.seq);
    if (extension && message.expires_at > extension.from) extension.until = message.expires_at;
  }

  // ---- scroll position

  #atBottom() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight <= NEAR_BOTTOM_PX;
  }

  #toBottom() {
    this.#scroller.scrollTo({ top: this.#scroller.scrollHeight, behavior: "instant" });
  }

  /** The first element in view and its position, so that the text in view does not move. */
  #anchor() {
    if (this.#sticksToEnd) return null;
    const top = this.#scroller.getBoundingClientRect().top;
    for (const entry of this.#entries) {
      // The line of a day moves up when older messages of the day come; a fading message will be removed.
      if (!MESSAGE_KINDS.includes(entry.kind) || (entry.kind === "message" && this.#leaving.has(entry.seq))) continue;
      const rect = this.#elementOf(entry)?.getBoundingClientRect();
      if (rect?.bottom > top) return { key: entry.key, top: rect.top };
    }
    return null;
  }

  /** @param {{key: string, top: number} | null} anchor */
  #restore(anchor) {
    if (this.#sticksToEnd) return this.#toBottom();
    const element = anchor && this.#views.get(anchor.key)?.element;
    if (!element) return;
    const moved = element.getBoundingClientRect().top - anchor.top;
    if (moved) this.#scroller.scrollBy({ top: moved, behavior: "instant" });
  }

  #scrolled() {
    this.#sticksToEnd = this.#atBottom();
    this.#showJump();
    this.seen();
    if (this.room && this.#isSettled && this.#scroller.scrollTop < NEAR_TOP_PX) this.#chat.page(this.room.id);
  }

  #showJump() {
    this.#jump.hidden = this.#sticksToEnd || this.#atBottom();
    if (this.#jump.hidden || !this.room) return;
    const { count } = this.room.unread;
    setText(
      find("span", this.#jump),
      count ? fill(gettext("Jump to latest (%(n)s)"), { n: phrases.number(count) }) : gettext("Jump to latest"),
    );
  }
}

/** @param {Entry} entry */
function lineOf({ kind, shown }) {
  if (kind === "day") return el("p", { class: "day" }, el("time", { datetime: shown.iso }, shown.text));
  if (kind === "since") return el("p", { class: "since" }, el("span", {}, shown.text));
  const values = { name: shown.by?.name ?? "", from: phrases.duration(shown.from), to: phrases.duration(shown.to) };
  if (shown.text) return eventLine(shown.text, shown.at);
  const text = shown.by
    ? gettext("%(name)s changed the lifetime from %(from)s to %(to)s")
    : gettext("The lifetime changed from %(from)s to %(to)s");
  return eventLine(fill(text, values), shown.at, ring());
}

/** @param {string} text @param {number} at @param {Element[]} icons */
function eventLine(text, at, ...icons) {
  const time = el("time", { datetime: new Date(at).toISOString() }, phrases.clockTime(at));
  return el("div", { class: "event" }, el("p", {}, ...icons, text), time);
}
