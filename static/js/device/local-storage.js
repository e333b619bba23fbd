/** The browser's local storage, or null where the browser refuses it: then values last as long as the page. */
export function localStorageOrNull() {
  try {
    return globalThis.localStorage;
  } catch {
    return null;
  }
}
