/** The chat page: makes the parts, joins them, and knows which room is open. */
import * as api from "./http/api.js";
import { About } from "./view/room-settings.js";
import { Bars } from "./view/status-bars.js";
import { Chat } from "./model/chat.js";
import { Composer } from "./view/composer.js";
import { Details } from "./view/message-details.js";
import { Keep } from "./device/preferences.js";
import { Learner } from "./http/room-details.js";
import { Lifetime } from "./view/lifetime-picker.js";
import { NewRoom } from "./view/new-room.js";
import { Notices } from "./view/notices.js";
import { Outbox } from "./model/outbox.js";
import { RoomHead } from "./view/room-head.js";
import { RoomsView } from "./view/room-list.js";
import { ServerClock } from "./model/server-clock.js";
import { Settings } from "./view/user-settings.js";
import { Socket } from "./model/socket.js";
import { Ticker } from "./model/ticker.js";
import { Timeline } from "./view/timeline.js";
import { Tombstones } from "./model/tombstones.js";
import { ask } from "./view/confirm.js";
import { avatar, fillWith, find, live, setAttribute, setText } from "./view/dom.js";
import { encode, send as sendFrame } from "./model/protocol.js";
import { gettext } from "./i18n.js";
import { offerAt } from "./model/delivery-state.js";
import { openOutboxStore, shared } from "./device/outbox-store.js";
import * as words from "./phrases.js";

const TYPING_GONE_MS = 6100; // a little after room.js has forgotten it
const ROOM_MEMORY_MOST = 1500;

const boot = JSON.parse(find("#boot").textContent);
const app = find("[data-app]");
const clock = { now: () => Date.now(), set: (action, ms) => setTimeout(action, ms), clear: (handle) => clearTimeout(handle) };
const serverClock = new ServerClock(() => Date.now(), () => performance.now());
const storage = (() => {
  try {
    return globalThis.localStorage;
  } catch {
    return null; // the browser refuses: everything lasts as long as the page
  }
})();
const keep = new Keep({ storage, user: boot.user.id });
const tabs = new BroadcastChannel(`chat-outbox-${boot.user.id}`);
const newId = () => crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte, i) => (i === 6 ? (byte & 15) | 64 : i === 8 ? (byte & 63) | 128 : byte).toString(16).padStart(2, "0")).join("").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");

let current = null; // the open room's id
let leads = false;
let soon = null;
let wanted = { room: boot.room, seq: boot.seq };

const chat = new Chat({ me: boot.user, clock, serverClock, newId, tombstones: new Tombstones({ storage, user: boot.user.id, now: () => serverClock.now() }), hidden: () => document.hidden });
const store = shared(await openOutboxStore(boot.user.id), () => tabs.postMessage({ changed: true }));
const outbox = new Outbox({
  store,
  clock,
  newId,
  transmit(item) {
    const frame = sendFrame(item);
    if (encode(frame, chat.limits.frame) === null) return "too_big";
    return socket.send(frame) ? "sent" : "offline";
  },
  on: {
    changed: (room) => outboxChanged(room),
    settled(item, sent) {
      chat.settled(item, sent);
      if (leads) tabs.postMessage({ sent });
    },
  },
});
const scheme = location.protocol === "https:" ? "wss:" : "ws:";
const socket = new Socket({
  url: `${scheme}//${location.host}/ws/chat/`,
  WebSocket,
  check: api.checkStatus,
  clock,
  rooms: () => chat.greeting(),
  user: boot.user.id,
  on: {
    frame: (frame) => chat.take(frame),
    batch: () => chat.batch(),
    state: (state) => connectionChanged(state),
    closed(code) {
      chat.disconnected();
      outbox.disconnected(code);
    },
  },
});
chat.join({ outbox, transmit: (frames) => socket.send(frames) });

const room = () => (current === null ? null : chat.rooms.get(current) ?? null);
const page = {
  chat, outbox, keep, clock, serverClock, socket, ask, attempt, open,
  me: () => chat.me,
  isOnline: () => socket.isOpen,
  current: () => current,
  currentRoom: room,
  act, extend, extensionOf,
  loadMembers: (its) => learner.members(its),
  askLacking: (its, seq) => learner.askLacking(its, seq),
  lacking: (its, seq) => learner.lacking(its, seq),
  ticked: () => ticker.run(),
  nextOnTheWay: () => timeline.nextOnTheWay(),
  muted,
  send: (sending) => {
    timeline.wrote();
    return outbox.add(sending);
  },
  edited: (message, body) => chat.edit(room(), message.seq, body),
  lastOwn: () => room()?.log.list.findLast((message) => room().isOwn(message) && message.expires_at > serverClock.now()) ?? null,
};
const learner = new Learner({ chat, isOpen: (its) => its.id === current && !document.hidden, learned });
const timeline = new Timeline(page);
const lifetime = new Lifetime({ retention_s: boot.dead_letter_retention_s, changed: () => {} });
const composer = new Composer({ page, lifetime, keep });
const rooms = new RoomsView(page);
const head = new RoomHead(page);
const bars = new Bars(page);
const notices = new Notices(page);
const details = new Details(page);
const about = new About(page);
new NewRoom(page);
new Settings({ keep, composer, outbox, ask });
const ticker = new Ticker({ clock, tick });

// ---- which room is open

function open(id, { push = true, seq = null } = {}) {
  if (push && (id !== current || app.dataset.view !== "room")) window.history.pushState(null, "", `/r/${encodeURIComponent(id)}/`);
  wanted = { room: id, seq };
  setAttribute(app, "data-view", "room");
  show();
}

function closeRoom({ push = true } = {}) {
  if (push) window.history.pushState(null, "", "/");
  wanted = { room: null, seq: null };
  setAttribute(app, "data-view", "rooms");
  timeline.seen();
  draw();
}

/** Show what is wanted, as soon as it is known. */
function show() {
  const its = wanted.room === null ? null : chat.rooms.get(wanted.room);
  if (!its) return drawNoRoom();
  find("[data-no-room]").hidden = true;
  find("[data-room]").hidden = false;
  const same = current === its.id && timeline.room === its;
  current = its.id;
  if (!same) {
    timeline.open(its, wanted.seq);
    composer.open(its);
    learner.members(its).catch(() => {});
    learner.lifetimes(its);
    learner.receipts(its);
    if (matchMedia("(width >= 900px) and (pointer: fine)").matches) composer.focus();
  } else if (wanted.seq !== null) {
    timeline.link(wanted.seq);
  }
  wanted = { room: its.id, seq: null };
  timeline.seen();
  draw();
}

function drawNoRoom() {
  const known = chat.rooms.size > 0;
  if (current === null) {
    find("[data-no-room]").hidden = false;
    find("[data-room]").hidden = true;
  }
  // Two panes with an empty one look broken: open the newest.
  if (known && wanted.room === null && current === null && matchMedia("(width >= 900px)").matches) {
    const newest = find("[data-rooms] a.room-link[href^='/r/']");
    const id = newest ? decodeURIComponent(newest.pathname.split("/")[2]) : [...chat.rooms.keys()][0];
    wanted = { room: id, seq: null };
    show();
  }
}

function readAddress() {
  const [, r, id, seq] = location.pathname.split("/");
  return r === "r" && id ? { room: decodeURIComponent(id), seq: seq ? Number(seq) : null } : { room: null, seq: null };
}

addEventListener("popstate", () => {
  const there = readAddress();
  if (there.room === null) closeRoom({ push: false });
  else open(there.room, { push: false, seq: there.seq });
});
find("[data-back]").addEventListener("click", (event) => {
  event.preventDefault();
  closeRoom();
  find(".room-link[aria-current]")?.focus();
});

// ---- what changes what

function draw() {
  const its = room();
  rooms.draw();
  if (its) {
    head.render(its);
    about.refresh(its);
    composer.refresh();
  }
  bars.outbox();
  notices.render();
  title();
}

/** Once for all that one text from the server brought. */
function drawSoon() {
  soon ??= setTimeout(() => {
    soon = null;
    title();
    notices.render();
    if (room()) head.onTheWay(room());
  }, 0);
}

function title() {
  const unread = chat.unread;
  const name = room()?.name;
  const base = name ? `${name} · ${gettext("Chat")}` : gettext("Chat");
  const text = unread ? `(${unread > 99 ? "99+" : unread}) ${base}` : base;
  if (document.title !== text) document.title = text;
  setAttribute(find("[data-back]"), "aria-label", unread ? `${gettext("Back to rooms")}, ${words.unread(unread)}` : gettext("Back to rooms"));
}

function connectionChanged(state) {
  setText(find("[data-me-state]"), state.name === "open" ? gettext("Online") : state.name === "connecting" ? gettext("Connecting") : gettext("Offline"));
  fillWith(find("[data-me-avatar]"), avatar(chat.me, { presence: state.name === "open" ? "online" : "offline" }));
  bars.connection(state);
  if (state.name === "open") {
    outbox.connected(chat.limits);
    chat.connected();
  }
  timeline.draw();
}

function outboxChanged(id) {
  rooms.draw();
  bars.outbox();
  if (id === current) timeline.draw();
}

chat.on("welcome", () => {
  setText(find("[data-me-name]"), chat.me.name);
  for (const its of chat.rooms.values()) its.muted = keep.get(`muted.${its.id}`) === "yes";
  rooms.render();
  show();
  learner.direct();
  ticker.run(); // the clock may have been set
});
chat.on("rooms", () => {
  rooms.draw();
  drawSoon();
});
chat.on("left", ({ room: its }) => its.id === current && draw());
chat.on("room", (out) => {
  const its = out.room;
  if (out.info) its.muted = keep.get(`muted.${its.id}`) === "yes";
  if (wanted.room === its.id || (current === its.id && timeline.room !== its)) show();
  if (out.resumed || out.paged) preview();
  if (current === its.id && its.untold.length) learner.receipts(its);
  if (current !== its.id) {
    its.log.trim(ROOM_MEMORY_MOST);
    ticker.run();
    return;
  }
  timeline.changed(out);
  composer.ended(out.removed.map(({ message }) => message));
  if (out.info) learner.members(its).catch(() => {});
  if (out.info) learner.lifetimes(its);
  if (out.receipts || out.info) draw();
  else drawSoon();
  if (details.isOpen && (out.receipts || out.changed.length || out.removed.length)) details.refresh(its);
});
chat.on("presence", ({ room: its }) => {
  rooms.draw();
  if (its.id === current) head.render(its);
  about.refresh(its);
});
chat.on("typing", ({ room: its }) => {
  const again = () => {
    rooms.draw();
    if (its.id === current) head.typing(its);
  };
  again();
  clock.set(again, TYPING_GONE_MS);
});
chat.on("notices", () => {
  notices.render();
  timeline.draw();
});
chat.on("problem", ({ room: its, seq, code, of, body }) => {
  live(words.refused(code));
  if (of === "edit") composer.giveBack(its, body);
  if (its?.id === current) timeline.problem(seq, code);
});

/** The newest message of rooms that are not open, one question at a time. */
function preview() {
  const busy = [...chat.rooms.values()].some((its) => its.id !== current && its.log.paging);
  if (busy) return;
  const bare = [...chat.rooms.values()].find((its) => its.id !== current && !its.left && its.log.hasMore && its.log.list.length === 0);
  if (bare) chat.page(bare.id, 1);
}

/** What HTTP told about a room: its members, or who has a message. */
function learned(its) {
  rooms.draw();
  about.refresh(its);
  notices.render();
  if (its.id !== current) return;
  head.render(its);
  timeline.draw();
}

function muted(its, is) {
  its.muted = is;
  keep.set(`muted.${its.id}`, is ? "yes" : "");
  rooms.draw();
  title();
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    live(words.refused(error.code));
  }
}

// ---- what is done to a message

function act(name, entry) {
  const its = room();
  if (!its) return;
  if (name === "resend") return chat.resend(entry.stone);
  if (entry.kind === "outbox") return actOnUnsent(name, entry.item);
  const message = its.log.messages.get(entry.seq) ?? entry.message;
  timeline.forgetProblem(entry.seq);
  const actions = {
    reply: () => composer.reply(message),
    edit: () => composer.edit(message),
    details: () => details.open(its, message),
    link: () => copyLink(its, message),
    extend: () => extend(its, message),
    show: () => timeline.link(entry.target),
    delete: () => remove(its, message),
  };
  actions[name]?.();
}

async function actOnUnsent(name, item) {
  if (name === "retry") return outbox.retry(item.id);
  await outbox.discard(item.id);
  if (name === "edit") composer.take(item.body);
  else composer.focus();
}

async function remove(its, message) {
  const yes = await ask({ title: gettext("Delete this message?"), effect: gettext("It disappears for everybody in the room."), yes: gettext("Delete") });
  if (yes) chat.delete(its, message.seq);
}

async function copyLink(its, message) {
  const address = new URL(`/r/${encodeURIComponent(its.id)}/${message.seq}/`, location.href).href;
  const done = await navigator.clipboard?.writeText(address).then(() => true, () => false);
  if (done) live(gettext("Link copied"));
  else window.history.replaceState(null, "", address); // a page without a clipboard shows it in the address bar
}

/** Another life as long as its own, within the longest allowed: {by, ttl} in seconds. */
function extensionOf(its, message) {
  const own = Math.max(1, Math.round((message.expires_at - message.sent_at) / 1000));
  const left = Math.max(0, Math.round((message.expires_at - serverClock.now()) / 1000));
  const longest = Math.min(its.ttl_max, chat.limits.ttl_max);
  const by = own >= 3600 ? Math.round(own / 3600) * 3600 : own;
  return { by, ttl: Math.min(longest, left + by) };
}

function extend(its, message) {
  const { by, ttl } = extensionOf(its, message);
  if (its.id === current) timeline.extending(message, by);
  chat.extend(its, message.seq, ttl);
}

// ---- time

function tick() {
  const now = serverClock.now();
  chat.expire();
  let wait = timeline.tick(now);
  for (const its of chat.rooms.values()) {
    for (const { expires_at } of its.log.list) wait = Math.min(wait, expires_at - now);
    for (const message of its.onTheWay) if (offerAt(message) > now) wait = Math.min(wait, offerAt(message) - now);
  }
  if (details.isOpen) {
    details.tick();
    wait = Math.min(wait, 1000);
  }
  notices.render();
  return Math.max(50, wait);
}

function wake() {
  ticker.run();
  socket.wake();
  timeline.draw();
  timeline.seen();
}

document.addEventListener("visibilitychange", () => !document.hidden && wake());
addEventListener("pagehide", () => chat.leaving());
addEventListener("pageshow", (event) => event.persisted && wake());
addEventListener("focus", () => ticker.run());
document.addEventListener("resume", wake);
addEventListener("online", () => socket.wake());
addEventListener("offline", () => socket.probe());

// ---- one tab sends; the others write to the same outbox

tabs.onmessage = ({ data }) => {
  if (data.sent) outbox.sent(data.sent);
  else outbox.reload();
};
if (navigator.locks) {
  navigator.locks.request(`chat-outbox-${boot.user.id}`, () => {
    leads = true;
    outbox.lead();
    return new Promise(() => {}); // held until this tab is gone
  });
} else {
  leads = true;
  outbox.lead();
}

connectionChanged({ name: "connecting" });
await outbox.load();
socket.connect();
ticker.run();
