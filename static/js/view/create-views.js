/** Makes the views and gives each of them the parts that it uses. */
import { Composer } from "./composer.js";
import { ExpiryTimer } from "./expiry-timer.js";
import { LifetimePicker } from "./lifetime-picker.js";
import { MessageActions } from "./message-actions.js";
import { MessageDetails } from "./message-details.js";
import { NewRoom } from "./new-room.js";
import { Notices } from "./notices.js";
import { OpenRoom } from "./open-room.js";
import { OwnStatus } from "./own-status.js";
import { PageTitle } from "./page-title.js";
import { RoomDetails } from "../http/room-details.js";
import { RoomHead } from "./room-head.js";
import { RoomList } from "./room-list.js";
import { RoomSettings } from "./room-settings.js";
import { StatusBars } from "./status-bars.js";
import { Timeline } from "./timeline.js";
import { Updates } from "./updates.js";
import { UserSettings } from "./user-settings.js";

/** @import { Chat } from "../model/chat.js" */
/** @import { Clock } from "../model/protocol.js" */
/** @import { Outbox } from "../model/outbox.js" */
/** @import { Place } from "./open-room.js" */
/** @import { Preferences } from "../device/preferences.js" */
/** @import { ServerClock } from "../model/server-clock.js" */
/** @import { Socket } from "../model/socket.js" */

/**
 * wanted: the room and the message in the page's address. retentionS: how long the text of a missed message is kept.
 *
 * @param {{
 *   chat: Chat, outbox: Outbox, socket: Socket, clock: Clock, serverClock: ServerClock, preferences: Preferences,
 *   wanted: Place, retentionS: number,
 * }} parts
 */
export function createViews({ chat, outbox, socket, clock, serverClock, preferences, wanted, retentionS }) {
  const currentRoom = () => openRoom.room;
  const open = (/** @type {string} */ roomId) => openRoom.open(roomId);
  const roomDetails = new RoomDetails({
    chat,
    isOpen: (room) => room.id === openRoom.id && !document.hidden,
    changed: (room) => updates.detailsChanged(room),
  });
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
  const lifetime = new LifetimePicker({ retentionS });
  const composer = new Composer({
    chat,
    lifetime,
    preferences,
    send(message) {
      timeline.wrote();
      return outbox.add(message);
    },
  });
  const roomList = new RoomList({ chat, outbox, preferences, serverClock, currentId: () => openRoom.id, open });
  const roomHead = new RoomHead({ chat, nextOnTheWay: () => timeline.nextOnTheWay() });
  const statusBars = new StatusBars({ socket, outbox, clock, currentRoom });
  const messageDetails = new MessageDetails({ serverClock });
  const messageActions = new MessageActions({ chat, outbox, timeline, composer, messageDetails, currentRoom });
  const notices = new Notices({ chat, serverClock, roomDetails, extend: (room, message) => messageActions.extend(room, message) });
  const roomSettings = new RoomSettings({ chat, roomDetails, currentRoom, setMuted: (room, muted) => updates.setMuted(room, muted) });
  /** @type {OpenRoom} */
  const openRoom = new OpenRoom({ chat, timeline, composer, roomDetails, wanted, draw: () => updates.draw() });
  const expiryTimer = new ExpiryTimer({ chat, clock, serverClock, timeline, messageDetails, notices });
  const pageTitle = new PageTitle({ chat, currentRoom });
  const ownStatus = new OwnStatus({ chat });
  const updates = new Updates({
    model: { chat, outbox, clock, preferences, roomDetails },
    views: {
      openRoom,
      timeline,
      composer,
      roomList,
      roomHead,
      roomSettings,
      messageDetails,
      notices,
      statusBars,
      pageTitle,
      ownStatus,
      expiryTimer,
    },
  });
  new NewRoom({ chat, open });
  new UserSettings({ preferences, composer, outbox });
  return { timeline, expiryTimer, updates };
}
