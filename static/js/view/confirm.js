/** A dialog that asks before an action that cannot be undone. */
import { find, setText } from "./dom.js";

/**
 * Resolves to true if the user confirms, else to false. yes: the text of the button.
 *
 * @param {{title: string, effect?: string, yes: string}} question
 * @returns {Promise<boolean>}
 */
export function confirmAction({ title, effect, yes }) {
  const dialog = find("[data-confirm]");
  setText(find("h2", dialog), title);
  setText(find("[data-effect]", dialog), effect ?? "");
  setText(find("[value=yes]", dialog), yes);
  dialog.returnValue = "";
  dialog.showModal();
  find("[data-no]", dialog).focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
