/** A question before what cannot be undone. */
import { find, setText } from "./dom.js";

/** Resolves to true only for yes; Esc is no. */
export function ask({ title, effect, yes }) {
  const dialog = find("[data-confirm]");
  setText(find("h2", dialog), title);
  setText(find("[data-effect]", dialog), effect ?? "");
  setText(find("[value=yes]", dialog), yes);
  dialog.returnValue = "";
  dialog.showModal();
  find("[data-no]", dialog).focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
