/** The browser's events about the page itself: shown again, focused, closed, with or without a network. */

/**
 * wake: the page is visible again, or the machine was asleep. leave: the page is about to be closed.
 *
 * @param {{wake: () => void, focus: () => void, leave: () => void, online: () => void, offline: () => void}} on
 */
export function listenToBrowser({ wake, focus, leave, online, offline }) {
  document.addEventListener("visibilitychange", () => !document.hidden && wake());
  document.addEventListener("resume", wake);
  addEventListener("pageshow", (event) => event.persisted && wake());
  addEventListener("pagehide", leave);
  addEventListener("focus", focus);
  addEventListener("online", online);
  addEventListener("offline", offline);
}
