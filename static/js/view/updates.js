/** Draws the views again that are affected by a change of the model, the connection, the outbox or the details of a room. */
import { announce } from "./dom.js";
import * as phrases from "../phrases.js";

/** @import { Chat, Problem, RoomChanges } from "../model/chat.js" */
/** @import { Clock } from "../model/protocol.js" */
/** @import { Composer } from "./composer.js" */
/** @import { ExpiryTimer } from "./expiry-timer.js" */
/** @import { MessageDetails } from "./message-details.js" */
/** @import { Notices } from "./notices.js" */
/** @import { OpenRoom } from "./open-room.js" */
/** @import { Outbox } from "../model/outbox.js" */
/** @import { OwnStatus } from "./own-status.js" */
/** @import { PageTitle } from "./page-title.js" */
/** @import { Preferences } from "../device/preferences.js" */
/** @import { Room } from "../model/room.js" */
/** @import { RoomDetails } from "../http/room-details.js" */
/** @import { RoomHead } from "./room-head.js" */
/** @import { RoomList } from "./room-list.js" */
/** @import { RoomSettings } from "./room-settings.js" */
/** @import { SocketState } from "../model/socket.js" */
/** @import { StatusBars } from "./status-bars.js" */
/** @import { Timeline } from "./timeline.js" */

/**
 * @typedef {{chat: Chat, outbox: Outbox, clock: Clock, preferences: Preferences, roomDetails: RoomDetails}} Model
 * @typedef {{
 *   openRoom: OpenRoom, timeline: Timeline, composer: Composer, roomList: RoomList, roomHead: RoomHead,
 *   roomSettings: RoomSettings, messageDetails: MessageDetails, notices: Notices, statusBars: StatusBars,
 *   pageTitle: PageTitle, ownStatus: OwnStatus, expiryTimer: ExpiryTimer,
 * }} Views
 */

const TYPING_ENDS_MS = 6100; // a little after the room has removed it
const MAX_CLOSED_ROOM_MESSAGES = 1500;

export class Updates {
  #model;
  #views;
  /** @type {ReturnType<typeof setTimeout> | null} */
  #soon = null;

  /** @param {{model: Model, views: Views}} parts */
  constructor({ model, views }) {
    this.#model = model;
    this.#views = views;
    const { chat } = model;
    chat.on("welcome", () => this.#welcomed());
    chat.on("rooms", () => this.#roomsChanged());
    chat.on("left", ({ room }) => room.id === views.openRoom.id && this.draw());
    chat.on("room", (changes) => this.#roomChanged(changes));
    chat.on("presence", ({ room }) => this.#presenceChanged(room));
    chat.on("typing", ({ room }) => this.#typingChanged(room));
    chat.on("notices", () => this.#noticesChanged());
    chat.on("problem", (problem) => this.#refused(problem));
  }

  draw() {
    const { openRoom, roomList, roomHead, roomSettings, composer, statusBars, notices, pageTitle } = this.#views;
    roomList.draw();
    if (openRoom.room) {
      roomHead.render(openRoom.room);
      roomSettings.refresh(openRoom.room);
      composer.refresh();
    }
    statusBars.outbox();
    notices.render();
    pageTitle.render();
  }

  /** @param {SocketState} state */
  connectionChanged(state) {
    const { chat, outbox } = this.#model;
    const { ownStatus, statusBars, timeline } = this.#views;
    ownStatus.renderState(state);
    statusBars.connection(state);
    if (state.name === "open") {
      outbox.connected(chat.limits);
      chat.connected();
    }
    timeline.draw();
  }

  /** @param {string} roomId */
  outboxChanged(roomId) {
    const { openRoom, roomList, statusBars, timeline } = this.#views;
    roomList.draw();
    statusBars.outbox();
    if (roomId === openRoom.id) timeline.draw();
  }

  /** Details of a room were loaded over HTTP. @param {Room} room */
  detailsChanged(room) {
    const { openRoom, roomList, roomHead, roomSettings, notices, timeline } = this.#views;
    roomList.draw();
    roomSettings.refresh(room);
    notices.render();
    if (room.id !== openRoom.id) return;
    roomHead.render(room);
    timeline.draw();
  }

  /** @param {Room} room @param {boolean} muted */
  setMuted(room, muted) {
    room.muted = muted;
    this.#model.preferences.setMuted(room.id, muted);
    this.#views.roomList.draw();
    this.#views.pageTitle.render();
  }

  #welcomed() {
    const { chat, preferences, roomDetails } = this.#model;
    const { openRoom, ownStatus, roomList, expiryTimer } = this.#views;
    ownStatus.renderName();
    for (const room of chat.rooms.values()) room.muted = preferences.isMuted(room.id);
    roomList.render();
    openRoom.show();
    roomDetails.loadDirectRooms();
    expiryTimer.run(); // the clock may have been set
  }

  #roomsChanged() {
    this.#views.roomList.draw();
    this.#drawSoon();
  }

  /** @param {RoomChanges} changes */
  #roomChanged(changes) {
    const { preferences, roomDetails } = this.#model;
    const { openRoom, expiryTimer } = this.#views;
    const { room, info, resumed, paged } = changes;
    if (info) room.muted = preferences.isMuted(room.id);
    if (openRoom.needsShow(room)) openRoom.show();
    if (resumed || paged) this.#loadPreview();
    if (openRoom.id !== room.id) {
      room.log.trim(MAX_CLOSED_ROOM_MESSAGES);
      expiryTimer.run();
      return;
    }
    if (room.withoutReceipt.length) roomDetails.loadReceipts(room);
    this.#openRoomChanged(changes);
  }

  /** @param {RoomChanges} changes */
  #openRoomChanged(changes) {
    const { roomDetails } = this.#model;
    const { timeline, composer, messageDetails } = this.#views;
    const { room, info, receipts, changed, removed } = changes;
    timeline.changed(changes);
    composer.ended(removed.map(({ message }) => message));
    if (info) {
      roomDetails.loadMembers(room).catch(() => {});
      roomDetails.loadLifetimes(room);
    }
    if (receipts || info) this.draw();
    else this.#drawSoon();
    if (messageDetails.isOpen && (receipts || changed.length || removed.length)) messageDetails.refresh(room);
  }

  /** @param {Room} room */
  #presenceChanged(room) {
    const { openRoom, roomList, roomHead, roomSettings } = this.#views;
    roomList.draw();
    if (room.id === openRoom.id) roomHead.render(room);
    roomSettings.refresh(room);
  }

  /** @param {Room} room */
  #typingChanged(room) {
    const { openRoom, roomList, roomHead } = this.#views;
    const draw = () => {
      roomList.draw();
      if (room.id === openRoom.id) roomHead.typing(room);
    };
    draw();
    this.#model.clock.set(draw, TYPING_ENDS_MS);
  }

  #noticesChanged() {
    this.#views.notices.render();
    this.#views.timeline.draw();
  }

  /** @param {Problem} problem */
  #refused({ room, seq, code, of, body }) {
    const { openRoom, composer, timeline } = this.#views;
    announce(phrases.refused(code));
    if (of === "edit" && room) composer.giveBack(room, body ?? "");
    if (room?.id === openRoom.id) timeline.problem(seq, code);
  }

  /** Once for all frames of one text from the server. */
  #drawSoon() {
    const { openRoom, roomHead, notices, pageTitle } = this.#views;
    this.#soon ??= setTimeout(() => {
      this.#soon = null;
      pageTitle.render();
      notices.render();
      if (openRoom.room) roomHead.onTheWay(openRoom.room);
    }, 0);
  }

  /** Load the newest message of the rooms that are not open, one request at a time. */
  #loadPreview() {
    const { chat } = this.#model;
    const closed = [...chat.rooms.values()].filter(({ id }) => id !== this.#views.openRoom.id);
    if (closed.some(({ log }) => log.paging)) return;
    const withoutPreview = closed.find(({ left, log }) => !left && log.hasMore && log.list.length === 0);
    if (withoutPreview) chat.page(withoutPreview.id, 1);
  }
}
