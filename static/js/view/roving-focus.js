/**
 * The keyboard in the log: one message is in the tab order, arrows move between them, right and Enter go to what can be
 * done with one, Esc comes back.
 */
import { find, setAttribute } from "./dom.js";

const DOABLE = ".actions button, .aside button, .tombstone-who ~ button:not([hidden])";

export class Roving {
  #log;
  #current = null;

  constructor(log) {
    this.#log = log;
    log.addEventListener("keydown", (event) => this.#key(event));
    log.addEventListener("focusin", ({ target }) => this.#focused(target.closest("article")));
  }

  forget() {
    this.#current = null;
  }

  /** After a change of the log: the one that had the focus last, else the newest, is in the tab order. */
  update() {
    const articles = this.#articles;
    const current = articles.includes(this.#current) ? this.#current : articles.at(-1);
    for (const one of articles) setAttribute(one, "tabindex", one === current ? 0 : -1);
  }

  /** The focus must not fall to the top of the page with an element that goes. */
  leave(element) {
    const articles = this.#articles;
    const at = articles.indexOf(element);
    (articles[at + 1] ?? articles[at - 1] ?? find("#message-text")).focus({ preventScroll: true });
  }

  get #articles() {
    return [...this.#log.querySelectorAll("article")];
  }

  #focused(article) {
    if (!article) return;
    this.#current = article;
    this.update();
  }

  #key(event) {
    const article = event.target.closest("article");
    if (!article || event.altKey || event.ctrlKey || event.metaKey) return;
    const toolbar = event.target.closest(".actions");
    if (!toolbar && event.target !== article) return;
    const next = (toolbar && this.#inToolbar(event, article, toolbar)) || this.#inLog(event, article);
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  #inToolbar({ key, target }, article, toolbar) {
    const buttons = [...toolbar.querySelectorAll("button")];
    const at = buttons.indexOf(target);
    if (key === "ArrowRight") return buttons[(at + 1) % buttons.length];
    if (key === "ArrowLeft") return buttons[at - 1] ?? article;
    return key === "Escape" ? article : null;
  }

  #inLog({ key, target }, article) {
    const articles = this.#articles;
    const at = articles.indexOf(article);
    if (key === "ArrowDown") return articles[at + 1] ?? article;
    if (key === "ArrowUp") return articles[at - 1] ?? article;
    if (key === "Home") return articles[0];
    if (key === "End") return articles.at(-1);
    return target === article && (key === "ArrowRight" || key === "Enter") ? article.querySelector(DOABLE) : null;
  }
}
