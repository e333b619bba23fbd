/**
 * The keyboard in the log: one message is in the tab order, arrow keys move between messages, right and Enter go to a message's
 * buttons, Esc returns to the message.
 */
import { find, findAll, setAttribute } from "./dom.js";

const BUTTONS = ".actions button, .aside button, .tombstone-who ~ button:not([hidden])";

export class RovingFocus {
  #log;
  /** @type {HTMLElement | null} */
  #current = null;

  /** @param {HTMLElement} log */
  constructor(log) {
    this.#log = log;
    log.addEventListener("keydown", (event) => this.#handleKey(event));
    log.addEventListener("focusin", (/** @type {any} */ { target }) => this.#focused(target.closest("article")));
  }

  forget() {
    this.#current = null;
  }

  /** After a change of the log: the message that had the focus last, or else the newest, is in the tab order. */
  update() {
    const articles = this.#articles;
    const current = articles.find((article) => article === this.#current) ?? articles.at(-1);
    for (const article of articles) setAttribute(article, "tabindex", article === current ? 0 : -1);
  }

  /**
   * Move the focus from an element that is about to be removed, so that it does not fall to the top of the page.
   *
   * @param {HTMLElement} element
   */
  leave(element) {
    const articles = this.#articles;
    const index = articles.indexOf(element);
    (articles[index + 1] ?? articles[index - 1] ?? find("#message-text")).focus({ preventScroll: true });
  }

  /** @returns {HTMLElement[]} */
  get #articles() {
    return findAll("article", this.#log);
  }

  /** @param {HTMLElement | null} article */
  #focused(article) {
    if (!article) return;
    this.#current = article;
    this.update();
  }

  /** @param {any} event */
  #handleKey(event) {
    const article = event.target.closest("article");
    if (!article || event.altKey || event.ctrlKey || event.metaKey) return;
    const toolbar = event.target.closest(".actions");
    if (!toolbar && event.target !== article) return;
    const next = (toolbar && this.#inToolbar(event, article, toolbar)) || this.#inLog(event, article);
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  /** @param {any} event @param {HTMLElement} article @param {HTMLElement} toolbar @returns {HTMLElement | null} */
  #inToolbar({ key, target }, article, toolbar) {
    const buttons = findAll("button", toolbar);
    const index = buttons.indexOf(target);
    if (key === "ArrowRight") return buttons[(index + 1) % buttons.length];
    if (key === "ArrowLeft") return buttons[index - 1] ?? article;
    return key === "Escape" ? article : null;
  }

  /** @param {any} event @param {HTMLElement} article @returns {HTMLElement | null} */
  #inLog({ key, target }, article) {
    const articles = this.#articles;
    const index = articles.indexOf(article);
    if (key === "ArrowDown") return articles[index + 1] ?? article;
    if (key === "ArrowUp") return articles[index - 1] ?? article;
    if (key === "Home") return articles[0];
    if (key === "End") return articles.at(-1) ?? null;
    return target === article && (key === "ArrowRight" || key === "Enter") ? article.querySelector(BUTTONS) : null;
  }
}
