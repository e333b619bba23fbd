/** The site's HTTP API: rooms, people, recipients. Errors carry the server's stable code. */

/**
 * @typedef {import("../model/room.js").Member} Member
 * @typedef {import("../model/room.js").LifetimeChange} LifetimeChange
 *
 * next_at: epoch ms of the next attempt.
 * @typedef {{
 *   user: number, name: string, state: "waiting" | "delivered" | "read", reason: string | null, attempts: number | null,
 *   next_at: number | null,
 * }} Recipient
 * @typedef {{recipients: Recipient[], delivered: number, read: number, total: number}} Recipients
 * @typedef {{room: string, name: string, topic: string, members: number, joined: boolean}} PublicRoom
 * @typedef {{user: number, name: string}} FoundPerson
 * @typedef {import("../model/tombstones.js").Missed} Missed
 * @typedef {{notices: import("../model/protocol.js").Frame[], next: string | null}} NoticePage
 *
 * looked: the messages in the room. shortened: those that end sooner. ended: those that end at once.
 * @typedef {{looked: number, shortened: number, ended: number}} Shortening
 */

export class ApiError extends Error {
  /** status: of the response, 0 when there was none. @param {string} code @param {number} status */
  constructor(code, status) {
    super(code);
    this.code = code;
    this.status = status;
  }
}

function csrfToken() {
  const field = /** @type {HTMLInputElement | null} */ (document.querySelector("[name=csrfmiddlewaretoken]"));
  return document.cookie.match(/(?:^|;\s*)csrftoken=([^;]+)/)?.[1] ?? field?.value ?? "";
}

/**
 * @param {string} method
 * @param {string} path
 * @param {object} [data]
 * @returns {Promise<any>}
 */
async function call(method, path, data) {
  let response;
  try {
    response = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: {
        Accept: "application/json",
        ...(method === "GET" ? {} : { "X-CSRFToken": csrfToken() }),
        ...(data ? { "Content-Type": "application/json" } : {}),
      },
      body: data ? JSON.stringify(data) : undefined,
    });
  } catch {
    throw new ApiError("unreachable", 0);
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(answer.error?.code ?? "error", response.status);
  return answer;
}

/** @param {string} id */
const room = (id) => `/api/rooms/${encodeURIComponent(id)}/`;
/** @param {string} text */
const query = (text) => `?${new URLSearchParams({ q: text })}`;

/** @param {string} text @returns {Promise<{rooms: PublicRoom[]}>} */
export const publicRooms = (text) => call("GET", `/api/rooms/public/${query(text)}`);
/** @param {string} text @returns {Promise<{people: FoundPerson[]}>} */
export const people = (text) => call("GET", `/api/people/${query(text)}`);
/** @param {object} fields @returns {Promise<{room: string}>} */
export const createRoom = (fields) => call("POST", "/api/rooms/", fields);
/** @param {string} id @returns {Promise<{room: string, topic: string}>} */
export const roomDetails = (id) => call("GET", room(id));
/** @param {string} id @param {object} fields */
export const changeRoom = (id, fields) => call("PATCH", room(id), fields);
/** @param {string} id */
export const joinRoom = (id) => call("POST", `${room(id)}join/`);
/** @param {string} id */
export const leaveRoom = (id) => call("POST", `${room(id)}leave/`);
/** @param {string} id @returns {Promise<{members: Member[], total: number}>} */
export const members = (id) => call("GET", `${room(id)}members/`);
/** @param {string} id @param {string} name */
export const addMember = (id, name) => call("POST", `${room(id)}members/`, { name });
/** @param {string} id @param {number} user */
export const removeMember = (id, user) => call("DELETE", `${room(id)}members/${user}/`);
/** @param {string} id @returns {Promise<{lifetimes: LifetimeChange[]}>} */
export const lifetimes = (id) => call("GET", `${room(id)}lifetimes/`);
/** @param {string} id @param {{ttl: number, dry_run: boolean}} fields @returns {Promise<Shortening>} */
export const shorten = (id, fields) => call("POST", `${room(id)}shorten/`, fields);
/** @param {string} name @returns {Promise<{room: string}>} */
export const openDirect = (name) => call("POST", "/api/direct/", { name });
/** @param {string} id @param {number} seq @returns {Promise<Recipients>} */
export const recipients = (id, seq) => call("GET", `${room(id)}messages/${seq}/recipients/`);

/** The user's notices, the newest first. before: `next` of the page before. @param {string} [before] @returns {Promise<NoticePage>} */
export const notices = (before) => call("GET", `/api/notices/${before ? `?${new URLSearchParams({ before })}` : ""}`);
/** Those who missed the message of a notice, by id. @param {string} notice @param {number} after @returns {Promise<{missing: Missed[]}>} */
export const missing = (notice, after) => call("GET", `/api/notices/${encodeURIComponent(notice)}/missing/?after=${after}`);

const CHECK_TIMEOUT_MS = 10_000;

/** The HTTP status of the check address; 0 when there is no answer in time. */
export async function checkStatus() {
  try {
    return (
      await fetch("/ws/chat/check/", { credentials: "same-origin", cache: "no-store", signal: AbortSignal.timeout(CHECK_TIMEOUT_MS) })
    ).status;
  } catch {
    return 0;
  }
}
