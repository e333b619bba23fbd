/** The chat page: makes the parts, connects them and starts them. */
import { checkStatus } from "./http/api.js";
import { clock } from "./device/clock.js";
import { localStorageOrNull } from "./device/local-storage.js";
import { newId } from "./device/new-id.js";
import { notifying, openOutboxStore, openOwnLogStore } from "./device/outbox-store.js";
import { Preferences } from "./device/preferences.js";
import { Tabs } from "./device/tabs.js";
import { Chat } from "./model/chat.js";
import { Outbox } from "./model/outbox.js";
import { OwnLog } from "./model/own-log.js";
import { encode, history, send } from "./model/protocol.js";
import { ServerClock } from "./model/server-clock.js";
import { Socket } from "./model/socket.js";
import { Tombstones } from "./model/tombstones.js";
import { createViews } from "./view/create-views.js";
import { find } from "./view/dom.js";
import { listenToBrowser } from "./view/page-lifecycle.js";

const boot = JSON.parse(find("#boot").textContent);
const user = boot.user.id;
const serverClock = new ServerClock(
  () => Date.now(),
  () => performance.now(),
);
const storage = localStorageOrNull();
const preferences = new Preferences({ storage, user });
const tombstones = new Tombstones({ storage, user, now: () => serverClock.now() });
const tabs = new Tabs(user);
const store = notifying(await openOutboxStore(user), () => tabs.tellChanged());

/** @type {OwnLog} */
const ownLog = new OwnLog({
  store: await openOwnLogStore(user),
  clock,
  serverNow: () => serverClock.now(),
  on: {
    ask: (room, before) => socket.send(history(room, before, 1)),
    reread: (room) => chat.reread(room),
    offer: (lost) => outbox.offer(lost),
  },
});
const chat = new Chat({ me: boot.user, clock, serverClock, newId, ownLog, tombstones, hidden: () => document.hidden });
const outbox = new Outbox({
  store,
  clock,
  serverNow: () => serverClock.now(),
  newId,
  ownLog,
  transmit(item) {
    const frame = send(item);
    if (encode(frame, chat.limits.frame) === null) return "too_big";
    return socket.send(frame) ? "sent" : "offline";
  },
  on: {
    changed: (roomId) => updates.outboxChanged(roomId),
    settled(item, sent) {
      chat.settled(item, sent);
      tabs.tellSent(sent);
    },
  },
});
const socket = new Socket({
  url: `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/ws/chat/`,
  WebSocket,
  check: checkStatus,
  clock,
  rooms: () => chat.greeting(),
  user,
  on: {
    frame: (frame) => chat.receive(frame),
    batch: () => chat.batch(),
    state: (state) => updates.connectionChanged(state),
    closed(code) {
      chat.disconnected();
      outbox.disconnected(code);
    },
  },
});
chat.join({ outbox, transmit: (frames) => socket.send(frames) });

const { timeline, expiryTimer, updates } = createViews({
  chat,
  outbox,
  socket,
  clock,
  serverClock,
  preferences,
  wanted: { room: boot.room, seq: boot.seq },
  retentionS: boot.dead_letter_retention_s,
});
listenToBrowser({
  wake() {
    expiryTimer.run();
    socket.wake();
    timeline.draw();
    timeline.seen();
  },
  focus: () => expiryTimer.run(),
  leave: () => chat.leaving(),
  online: () => socket.wake(),
  offline: () => socket.networkLost(),
});

tabs.listen({ changed: () => outbox.reload(), sent: (sent) => outbox.sent(sent) });
tabs.waitToSend(async () => {
  await ownLog.load();
  chat.compareOwnLog();
  outbox.becomeSender();
});
updates.connectionChanged({ name: "connecting" });
await outbox.load();
socket.connect();
expiryTimer.run();
