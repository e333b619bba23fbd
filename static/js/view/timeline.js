/**
 * The open room's timeline: keeps the elements in step with the entries, the reader's place where it is, and says what has
 * been read. Frames of the screen decide when it draws; what is drawn is decided in entries.js.
 */
import { el, find, ring, setAttribute, setText } from "./dom.js";
import { entriesOf, expiringText, waitingText } from "../model/timeline-entries.js";
import { fill, gettext } from "../i18n.js";
import { offerAt, offersExtend } from "../model/delivery-state.js";
import { MessageView } from "./message-view.js";
import { Roving } from "./roving-focus.js";
import { Tombstones } from "../model/tombstones.js";
import * as words from "../phrases.js";

const NEAR_BOTTOM = 48; // px
const NEAR_TOP = 600;
const ANCHORS = ["message", "tombstone", "outbox"];
const FADE_MS = 650; // the stylesheet's 600 and a little
const LATE_MS = 2000; // what ended longer ago is not shown once more in order to fade: the machine has slept
const UNREAD_PAGES_MOST = 4;
const LINK_PAGES_MOST = 40;
const PROBLEM_MS = 8000;
const HELD_MOST = 1200; // messages; while the newest are in sight the oldest beyond it go, and paging brings them back
const HELD_AFTER = 600;
const FEW = 30; // messages that fill no screen

export class Timeline {
  room = null;
  #page;
  #frame;
  #scroller = find("[data-timeline]");
  #log = find("[data-log]");
  #jump = find("[data-jump]");
  #empty = find("[data-empty-room]");
  #templates = { message: find("#message-template"), tombstone: find("#tombstone-template") };
  #views = new Map(); // key -> MessageView, or {element, shown} for a plain line
  #entries = [];
  #leaving = new Map(); // seq -> message, while it fades
  #problems = new Map();
  #extended = new Map();
  #divider = null;
  #linked = null;
  #stick = true;
  #settled = false; // the room's first place has been found
  #pages_left = 0;
  #had_messages = false;
  #roving;
  #drawn_at = 0;

  /** page: {chat, outbox, clock, serverClock, me, act, isOnline, askLacking(room, seq), lacking(room, seq) -> [{name}]|null}. */
  constructor(page) {
    this.#page = page;
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#scroller.style.overflowAnchor = "none"; // the place is kept here, once, not twice
    this.#jump.addEventListener("click", () => this.toLatest());
    this.#roving = new Roving(this.#log);
    new ResizeObserver(() => this.#stick && this.#toBottom()).observe(this.#scroller);
  }

  /** seq: of a message to show, from a permalink. */
  open(room, seq = null) {
    this.room = room;
    this.#views.clear();
    this.#entries = [];
    this.#leaving.clear();
    this.#problems.clear();
    this.#extended.clear();
    this.#log.replaceChildren();
    this.#roving.forget();
    this.#linked = seq;
    this.#stick = seq === null;
    this.#settled = false;
    this.#had_messages = false;
    this.#divider = room.read + 1; // kept only if something unread stands below it when the room has come
    this.#pages_left = seq === null ? UNREAD_PAGES_MOST : LINK_PAGES_MOST;
    setAttribute(this.#log, "aria-label", fill(gettext("Messages in %(name)s"), { name: room.name }));
    this.render();
  }

  close() {
    this.room = null;
  }

  /** Something changed; draw with the next frame of the screen. */
  draw() {
    if (this.#frame) return;
    const run = () => {
      this.#frame = null;
      this.render();
    };
    // A hidden tab gets no frames, and its title and acknowledgements do not need any.
    this.#frame = document.hidden ? setTimeout(run, 0) : requestAnimationFrame(run);
  }

  /** out: what the room's log says has changed (chat.js). */
  changed(out) {
    for (const { message, reason } of out.removed) if (reason === "expired" || reason === "deleted") this.#fade(message);
    for (const message of out.changed) this.#noteExtension(message);
    if (out.reset) this.#settled = false;
    if (out.own) this.#stick = true;
    this.draw();
  }

  wrote() {
    this.#stick = true;
    this.#divider = null;
    this.draw();
  }

  /** Say what was refused, long enough to read; then what can be done is offered again. */
  problem(seq, code) {
    const problem = { code };
    this.#problems.set(seq, problem);
    this.draw();
    this.#page.clock.set(() => {
      if (this.#problems.get(seq) !== problem) return;
      this.#problems.delete(seq);
      this.draw();
    }, PROBLEM_MS);
  }

  forgetProblem(seq) {
    this.#problems.delete(seq);
  }

  /** Its author asked for it; the aside says what came of it when the answer is here. */
  extending(message, by) {
    this.#extended.set(message.seq, { by, until: 0, from: message.expires_at });
  }

  render() {
    const { room } = this;
    if (!room) return;
    const page = this.#page;
    const now = page.serverClock.now();
    page.chat.expire([room]); // a frame may come before the timer does
    if (this.#stick && this.#settled && room.log.list.length > HELD_MOST) room.log.trim(HELD_AFTER);
    const place = this.#place();
    const before = new Set(this.#entries.map(({ key }) => key));
    this.#entries = entriesOf({
      room, now, local_now: page.clock.now(), me: page.me(), online: page.isOnline(), limit: page.chat.limits.body,
      outbox: page.outbox.inRoom(room.id), inFlight: (id) => page.outbox.isInFlight(id), stones: page.chat.tombstones(room),
      leaving: [...this.#leaving.values()], divider: this.#divider, linked: this.#linked, problems: this.#problems,
      lacking: (seq) => page.lacking(room, seq), extended: new Map([...this.#extended].filter(([, { until }]) => until > 0)),
      resending: (seq) => page.chat.isResending(room.id, seq), changing: (seq) => page.chat.isChanging(room.id, seq),
    });
    this.#announce(before);
    this.#sync(now);
    this.#drawn_at = now;
    this.#restore(place);
    this.#showEmpty();
    this.#afterDrawing(now);
  }

  /** Called by the page's timer; ms until something here changes. */
  tick(now) {
    if (!this.room) return Infinity;
    let wait = Infinity;
    let stale = words.isoDay(now) !== words.isoDay(this.#drawn_at || now);
    for (const entry of this.#entries) {
      if (entry.kind === "outbox" && entry.item.not_before > this.#page.clock.now()) {
        stale ||= entry.shown.aside?.text !== waitingText(entry.item, this.#page.clock.now());
        wait = Math.min(wait, 1000);
      }
      if (entry.kind === "tombstone") {
        const left = Tombstones.endOf(entry.stone) - now;
        stale ||= left <= 0;
        wait = left > 0 ? Math.min(wait, left) : wait;
      }
      if (entry.kind !== "message") continue;
      this.#views.get(entry.key)?.tick(now);
      const { message } = entry;
      if (!entry.shown.expires_at) continue;
      wait = Math.min(wait, words.nextTick(message.expires_at - now));
      const receipt = this.room.receipts.get(message.seq);
      const offers = entry.own && offersExtend(message, receipt, now);
      if (entry.own && !offers && now < offerAt(message)) wait = Math.min(wait, offerAt(message) - now);
      if (offers && entry.shown.aside?.text !== expiringText(message, receipt, this.#page.lacking(this.room, message.seq), now)) stale = true;
    }
    if (stale) this.draw();
    return wait;
  }

  toLatest() {
    this.#stick = true;
    this.#toBottom();
    this.#scrolled();
    this.#log.querySelector("article:last-of-type")?.focus({ preventScroll: true });
  }

  /** Bring a message into sight and focus it; false when it is not held. */
  show(seq) {
    const view = [...this.#views.values()].find((one) => one.entry?.shown.seq === seq);
    if (!view) return false;
    this.#stick = false;
    view.element.scrollIntoView({ block: "center", behavior: "instant" });
    view.element.focus({ preventScroll: true });
    this.#scrolled();
    return true;
  }

  /** Go to a message that may lie further back than what is held. */
  link(seq) {
    this.#linked = seq;
    this.render();
    if (this.show(seq)) return;
    this.#pages_left = LINK_PAGES_MOST;
    this.#settled = false;
    this.#page.chat.page(this.room.id, 100);
  }

  /** What the page can see of the room has been read. */
  seen() {
    if (!this.room || document.hidden || !this.#settled || this.#scroller.clientHeight === 0) return;
    const floor = this.#scroller.getBoundingClientRect().bottom + 24;
    const last = this.#entries.findLast((entry) => entry.kind === "message" && entry.seq < Infinity && this.#elementOf(entry)?.getBoundingClientRect().bottom <= floor);
    const all = this.#atBottom();
    if (all) this.#page.chat.read(this.room.id, this.room.log.last);
    else if (last) this.#page.chat.read(this.room.id, last.seq);
  }

  /** Focus the next own message that somebody still lacks. */
  nextOnTheWay() {
    const lacking = this.room.onTheWay.map(({ seq }) => seq);
    const at = Number(document.activeElement?.dataset?.seq ?? 0);
    const next = lacking.find((seq) => seq > at) ?? lacking[0];
    if (next) this.show(next);
  }

  // ---- drawing

  #elementOf(entry) {
    return this.#views.get(entry.key)?.element;
  }

  /** Only what others say now is read out: not own messages, not pages from before, not the first screen. */
  #announce(before) {
    const fresh = this.#entries.filter((entry) => !before.has(entry.key) && entry.kind === "message");
    const speak = this.#settled && fresh.length > 0 && fresh.every((entry) => !entry.own && entry.seq > (this.#last_spoken ?? 0));
    setAttribute(this.#log, "aria-live", speak ? "polite" : "off");
    this.#last_spoken = Math.max(this.#last_spoken ?? 0, this.room.log.last);
  }

  #last_spoken;

  #sync(now) {
    const keep = new Set();
    let at = this.#log.firstChild;
    for (const entry of this.#entries) {
      keep.add(entry.key);
      const old = this.#views.get(entry.key)?.element;
      const view = this.#viewOf(entry);
      if (view instanceof MessageView) {
        view.update(entry);
        view.tick(now);
      }
      if (old && old === at) at = view.element; // what was there may have been replaced: a line by that of another day
      if (view.element === at) at = at.nextSibling;
      else this.#log.insertBefore(view.element, at);
      setAttribute(view.element, "data-leaving", entry.kind === "message" && this.#leaving.has(entry.seq));
    }
    for (const [key, view] of this.#views) {
      if (keep.has(key)) continue;
      if (view.element.contains(document.activeElement)) this.#roving.leave(view.element);
      view.element.remove();
      this.#views.delete(key);
    }
    this.#roving.update();
  }

  #viewOf(entry) {
    const old = this.#views.get(entry.key);
    const message = ["message", "outbox", "tombstone"].includes(entry.kind);
    if (old && message) return old;
    if (old && old.shown === JSON.stringify(entry.shown)) return old;
    const view = message ? new MessageView({ templates: this.#templates, act: (name, one) => this.#page.act(name, one) }) : { element: lineOf(entry), shown: JSON.stringify(entry.shown) };
    if (old) old.element.replaceWith(view.element);
    this.#views.set(entry.key, view);
    return view;
  }

  #showEmpty() {
    const { room } = this;
    const any = this.#entries.some(({ kind }) => ["message", "outbox", "tombstone"].includes(kind));
    this.#had_messages ||= any;
    const waiting = room.log.hasMore && !any;
    this.#empty.hidden = any || waiting || room.left;
    this.#log.hidden = this.#entries.length === 0;
    if (this.#empty.hidden) return;
    const ended = this.#had_messages || room.log.last > 0;
    const life = { life: words.duration(room.ttl) };
    setText(find("h3", this.#empty), ended ? gettext("All messages here have expired") : gettext("Nothing here yet"));
    setText(find("p", this.#empty), ended ? fill(room.tracked ? gettext("New ones live for %(life)s. If one of yours missed somebody, it is in your notices.") : gettext("New ones live for %(life)s."), life) : fill(room.tracked ? gettext("What you write lives for %(life)s. It is delivered, or still being tried, or you are told who missed it.") : gettext("What you write lives for %(life)s. This room is not tracked: nobody is told who missed it."), life));
    find("button", this.#empty).hidden = !ended || !room.tracked;
  }

  #afterDrawing(now) {
    this.#findFirstPlace();
    this.#page.ticked();
    this.#askWhoLacks(now);
    this.#showJump();
    this.seen();
    if (this.#scroller.scrollTop < NEAR_TOP && this.#settled) this.#page.chat.page(this.room.id);
  }

  /** Where a room opens: at the message a link names, else at the first unread, else at the end. */
  #findFirstPlace() {
    if (this.#settled) return;
    const { log, unread } = this.room;
    if (log.isCatchingUp) return;
    const wanted = this.#linked ?? (unread.count > 0 ? this.#divider - 1 : Infinity);
    const few = log.list.length < FEW;
    if (log.hasMore && (log.floor > wanted || few) && this.#pages_left > 0) {
      const asked = this.#page.chat.page(this.room.id, this.#linked === null ? 50 : 100);
      if (asked) this.#pages_left -= 1;
      if (asked || log.paging) return;
      if (!this.#page.isOnline()) return;
    }
    this.#settled = true;
    this.#last_spoken = log.last;
    if (unread.count === 0) this.#divider = null;
    if (this.#linked !== null) {
      if (!this.show(this.#linked)) this.#toBottom();
      return;
    }
    const divider = find(".since", this.#log);
    if (!divider) return this.#toBottom();
    divider.scrollIntoView({ block: "start", behavior: "instant" });
    this.#stick = this.#atBottom();
  }

  #askWhoLacks(now) {
    const { room } = this;
    for (const message of room.onTheWay) if (offersExtend(message, room.receipts.get(message.seq), now)) this.#page.askLacking(room, message.seq);
  }

  #fade(message) {
    if (this.room.isOwn(message)) return; // its tombstone takes its place
    if (this.#page.serverClock.now() - message.expires_at > LATE_MS) return;
    this.#leaving.set(message.seq, message);
    this.#page.clock.set(() => {
      this.#leaving.delete(message.seq);
      this.draw();
    }, matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : FADE_MS);
  }

  #noteExtension(message) {
    const asked = this.#extended.get(message.seq);
    if (asked && message.expires_at > asked.from) asked.until = message.expires_at;
  }

  // ---- place

  #atBottom() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight <= NEAR_BOTTOM;
  }

  #toBottom() {
    this.#scroller.scrollTo({ top: this.#scroller.scrollHeight, behavior: "instant" });
  }

  /** The first element in sight and where it stands, so that what is read does not move. */
  #place() {
    if (this.#stick) return null;
    const top = this.#scroller.getBoundingClientRect().top;
    for (const entry of this.#entries) {
      // A day's line moves up when older messages of the day come; what fades will be gone.
      if (!ANCHORS.includes(entry.kind) || (entry.kind === "message" && this.#leaving.has(entry.seq))) continue;
      const rect = this.#elementOf(entry)?.getBoundingClientRect();
      if (rect?.bottom > top) return { key: entry.key, top: rect.top };
    }
    return null;
  }

  #restore(place) {
    if (this.#stick) return this.#toBottom();
    const element = place && this.#views.get(place.key)?.element;
    if (!element) return;
    const moved = element.getBoundingClientRect().top - place.top;
    if (moved) this.#scroller.scrollBy({ top: moved, behavior: "instant" });
  }

  #scrolled() {
    this.#stick = this.#atBottom();
    this.#showJump();
    this.seen();
    if (this.room && this.#settled && this.#scroller.scrollTop < NEAR_TOP) this.#page.chat.page(this.room.id);
  }

  #showJump() {
    this.#jump.hidden = this.#stick || this.#atBottom();
    if (this.#jump.hidden || !this.room) return;
    const { count } = this.room.unread;
    setText(find("span", this.#jump), count ? fill(gettext("Jump to latest (%(n)s)"), { n: words.number(count) }) : gettext("Jump to latest"));
  }
}

function lineOf({ kind, shown }) {
  if (kind === "day") return el("p", { class: "day" }, el("time", { datetime: shown.iso }, shown.text));
  if (kind === "since") return el("p", { class: "since" }, el("span", {}, shown.text));
  const values = { name: shown.by?.name ?? "", from: words.duration(shown.from), to: words.duration(shown.to) };
  const text = shown.by ? gettext("%(name)s changed the lifetime from %(from)s to %(to)s") : gettext("The lifetime changed from %(from)s to %(to)s");
  return el("div", { class: "event" }, el("p", {}, ring(), fill(text, values)), el("time", { datetime: new Date(shown.at).toISOString() }, words.clockTime(shown.at)));
}
