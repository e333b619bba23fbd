/** The site's HTTP side: rooms, people, recipients. Errors carry the server's stable code. */

export class ApiError extends Error {
  constructor(code, status) {
    super(code);
    this.code = code;
    this.status = status;
  }
}

const token = () => document.cookie.match(/(?:^|;\s*)csrftoken=([^;]+)/)?.[1] ?? document.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "";

async function call(method, path, data) {
  let response;
  try {
    response = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: { Accept: "application/json", ...(method === "GET" ? {} : { "X-CSRFToken": token() }), ...(data ? { "Content-Type": "application/json" } : {}) },
      body: data ? JSON.stringify(data) : undefined,
    });
  } catch {
    throw new ApiError("unreachable", 0);
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(answer.error?.code ?? "error", response.status);
  return answer;
}

const room = (id) => `/api/rooms/${encodeURIComponent(id)}/`;
const query = (text) => `?${new URLSearchParams({ q: text })}`;

export const publicRooms = (text) => call("GET", `/api/rooms/public/${query(text)}`);
export const people = (text) => call("GET", `/api/people/${query(text)}`);
export const createRoom = (fields) => call("POST", "/api/rooms/", fields);
export const roomDetails = (id) => call("GET", room(id));
export const changeRoom = (id, fields) => call("PATCH", room(id), fields);
export const joinRoom = (id) => call("POST", `${room(id)}join/`);
export const leaveRoom = (id) => call("POST", `${room(id)}leave/`);
export const members = (id) => call("GET", `${room(id)}members/`);
export const addMember = (id, name) => call("POST", `${room(id)}members/`, { name });
export const removeMember = (id, user) => call("DELETE", `${room(id)}members/${user}/`);
export const lifetimes = (id) => call("GET", `${room(id)}lifetimes/`);
export const shorten = (id, fields) => call("POST", `${room(id)}shorten/`, fields);
export const openDirect = (name) => call("POST", "/api/direct/", { name });
export const recipients = (id, seq) => call("GET", `${room(id)}messages/${seq}/recipients/`);

const CHECK_TIMEOUT_MS = 10_000;

/** The status of the check address; 0 when nothing answers in time. */
export async function checkStatus() {
  try {
    return (await fetch("/ws/chat/check/", { credentials: "same-origin", cache: "no-store", signal: AbortSignal.timeout(CHECK_TIMEOUT_MS) })).status;
  } catch {
    return 0;
  }
}
