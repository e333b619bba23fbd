/** The chat page: makes the parts and gives each of them the parts that it uses. */
import { checkStatus } from "./http/api.js";
import { RoomDetails } from "./http/room-details.js";
import { localStorageOrNull } from "./device/local-storage.js";
import { newId } from "./device/new-id.js";
import { notifying, openOutboxStore } from "./device/outbox-store.js";
import { Preferences } from "./device/preferences.js";
import { Tabs } from "./device/tabs.js";
import { Chat } from "./model/chat.js";
import { Outbox } from "./model/outbox.js";
import { encode, send } from "./model/protocol.js";
import { ServerClock } from "./model/server-clock.js";
import { Socket } from "./model/socket.js";
import { Tombstones } from "./model/tombstones.js";
import { Composer } from "./view/composer.js";
import { find } from "./view/dom.js";
import { ExpiryTimer } from "./view/expiry-timer.js";
import { LifetimePicker } from "./view/lifetime-picker.js";
import { MessageActions } from "./view/message-actions.js";
import { MessageDetails } from "./view/message-details.js";
import { NewRoom } from "./view/new-room.js";
import { Notices } from "./view/notices.js";
import { OpenRoom } from "./view/open-room.js";
import { OwnStatus } from "./view/own-status.js";
import { listenToBrowser } from "./view/page-lifecycle.js";
import { PageTitle } from "./view/page-title.js";
import { RoomHead } from "./view/room-head.js";
import { RoomList } from "./view/room-list.js";
import { RoomSettings } from "./view/room-settings.js";
import { StatusBars } from "./view/status-bars.js";
import { Timeline } from "./view/timeline.js";
import { Updates } from "./view/updates.js";
import { UserSettings } from "./view/user-settings.js";

const boot = JSON.parse(find("#boot").textContent);
const user = boot.user.id;

// ---- the model

/** @type {import("./model/protocol.js").Clock} */
const clock = { now: () => Date.now(), set: (action, ms) => setTimeout(action, ms), clear: (handle) => clearTimeout(handle) };
const serverClock = new ServerClock(() => Date.now(), () => performance.now());
const storage = localStorageOrNull();
const preferences = new Preferences({ storage, user });
const tabs = new Tabs(user);
const tombstones = new Tombstones({ storage, user, now: () => serverClock.now() });
const chat = new Chat({ me: boot.user, clock, serverClock, newId, tombstones, hidden: () => document.hidden });
const outbox = new Outbox({
  store: notifying(await openOutboxStore(user), () => tabs.tellChanged()),
  clock,
  newId,
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

// ---- the views

const currentRoom = () => openRoom.room;
const roomDetails = new RoomDetails({ chat, isOpen: (room) => room.id === openRoom.id && !document.hidden, changed: (room) => updates.detailsChanged(room) });
const timeline = new Timeline({
  chat,
  outbox,
  clock,
  serverClock,
  roomDetails,
  isOnline: () => socket.isOpen,
  act: (name, entry) => messageActions.act(name, entry),
  drawn: () => expiryTimer.run(),
});
const lifetime = new LifetimePicker({ retentionS: boot.dead_letter_retention_s });
const composer = new Composer({
  chat,
  lifetime,
  preferences,
  send(message) {
    timeline.wrote();
    return outbox.add(message);
  },
});
const roomList = new RoomList({ chat, outbox, preferences, serverClock, currentId: () => openRoom.id, open: (roomId) => openRoom.open(roomId) });
const roomHead = new RoomHead({ chat, nextOnTheWay: () => timeline.nextOnTheWay() });
const statusBars = new StatusBars({ socket, outbox, clock, currentRoom });
const messageDetails = new MessageDetails({ serverClock });
const messageActions = new MessageActions({ chat, outbox, timeline, composer, messageDetails, currentRoom });
const notices = new Notices({ chat, serverClock, roomDetails, extend: (room, message) => messageActions.extend(room, message) });
const roomSettings = new RoomSettings({ chat, roomDetails, currentRoom, setMuted: (room, muted) => updates.setMuted(room, muted) });
/** @type {OpenRoom} */
const openRoom = new OpenRoom({ chat, timeline, composer, roomDetails, wanted: { room: boot.room, seq: boot.seq }, draw: () => updates.draw() });
const expiryTimer = new ExpiryTimer({ chat, clock, serverClock, timeline, messageDetails, notices });
const pageTitle = new PageTitle({ chat, currentRoom });
const ownStatus = new OwnStatus({ chat });
const updates = new Updates({
  model: { chat, outbox, clock, preferences, roomDetails },
  views: { openRoom, timeline, composer, roomList, roomHead, roomSettings, messageDetails, notices, statusBars, pageTitle, ownStatus, expiryTimer },
});
new NewRoom({ chat, open: (roomId) => openRoom.open(roomId) });
new UserSettings({ preferences, composer, outbox });

// ---- start

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
  offline: () => socket.probe(),
});
tabs.listen({ changed: () => outbox.reload(), sent: (sent) => outbox.sent(sent) });
tabs.waitToSend(() => outbox.becomeSender());
updates.connectionChanged({ name: "connecting" });
await outbox.load();
socket.connect();
expiryTimer.run();
