/**
 * One message or tombstone on the screen. The markup comes from the template; this inserts texts and states from the given
 * entry (timeline-entries.js) and from nothing else. No text is parsed as markup.
 */
import { parts } from "../model/message-text.js";
import { avatar, button, el, find, hidden, icon, iconButton, reach, reachBar, setAttribute, setRing, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { MAX_SEGMENTS, segments } from "../model/delivery-state.js";
import * as phrases from "../phrases.js";

/** @import { Entry } from "../model/timeline-entries.js" */
/** @import { Receipt } from "../model/delivery-state.js" */
/** @import { Missed, Tombstone } from "../model/tombstones.js" */
/** @import { TextPart } from "../model/message-text.js" */

/** @type {Record<string, string>} */
const TICKS = { sending: "sending", waiting: "sending", sent: "sent", delivered: "delivered", read: "read", failed: "failed" };
let ids = 0;

export class MessageView {
  /** @type {any} */
  element = null;
  /** @type {any} */
  entry = null;
  shown = "";

  /**
   * act(name, entry): the user chose this action.
   *
   * @param {{templates: Record<string, HTMLTemplateElement>, act: (name: string, entry: Entry & {target?: number}) => void}} parts
   */
  constructor({ templates, act }) {
    this.templates = templates;
    this.act = act;
    this.id = `m-${++ids}`;
  }

  /** Show the entry. The element is replaced when a message becomes a tombstone. @param {Entry} entry */
  update(entry) {
    const fingerprint = JSON.stringify(entry.shown);
    const isNew = this.element === null || (entry.kind === "tombstone") !== (this.entry.kind === "tombstone");
    this.entry = entry;
    if (!isNew && fingerprint === this.shown) return;
    this.shown = fingerprint;
    if (isNew) this.#make(entry);
    if (entry.kind === "tombstone") this.#showTombstone(entry.shown);
    else this.#show(entry.shown);
  }

  /** Show the remaining time; called by the page's one timer. @param {number} now */
  tick(now) {
    const { sent_at, expires_at } = this.entry.shown;
    const left = expires_at && this.#part("left");
    if (!left) return;
    const ms = expires_at - now;
    setText(this.#part("left-text"), phrases.remaining(ms));
    setRing(find(".ring", left), Math.round(Math.max(0, Math.min(100, (100 * ms) / (expires_at - sent_at)))));
    setAttribute(left, "data-left", ms <= 60_000 ? "last-minute" : null);
  }

  /** @param {Entry} entry */
  #make(entry) {
    const template = this.templates[entry.kind === "tombstone" ? "tombstone" : "message"];
    const fresh = /** @type {HTMLElement} */ (/** @type {Element} */ (template.content.firstElementChild).cloneNode(true));
    setAttribute(fresh, "tabindex", this.element?.tabIndex ?? -1);
    if (this.element) {
      const focused = this.element.contains(document.activeElement);
      this.element.replaceWith(fresh);
      if (focused) fresh.focus({ preventScroll: true });
    }
    this.element = fresh;
    for (const part of ["author", "text", "facts", "aside-text"])
      setAttribute(this.#part(part) ?? fresh, "id", this.#part(part) ? `${this.id}-${part}` : null);
    if (entry.kind === "tombstone") this.#part("resend").addEventListener("click", () => this.act("resend", this.entry));
  }

  /** @param {string} name */
  #part(name) {
    return find(`[data-part="${name}"]`, this.element);
  }

  /** @param {any} shown */
  #show(shown) {
    const { element } = this;
    setAttribute(element, "id", shown.seq ? `m${shown.seq}` : null);
    setAttribute(element, "data-seq", shown.seq);
    setAttribute(element, "data-own", shown.own);
    setAttribute(element, "data-follows", shown.follows);
    setAttribute(element, "data-state", shown.unshowable ? "unknown" : shown.state);
    setAttribute(element, "data-linked", shown.linked);
    setAttribute(
      element,
      "aria-labelledby",
      ["author", "text", "facts", ...(shown.aside ? ["aside-text"] : [])].map((part) => `${this.id}-${part}`).join(" "),
    );
    this.#showAuthor(shown);
    this.#showQuote(shown.quote);
    this.#showText(shown);
    this.#showFacts(shown);
    this.#showActions(shown);
    this.#showAside(shown.aside);
  }

  /** @param {any} shown */
  #showAuthor({ own, follows, author }) {
    const name = this.#part("author");
    setText(name, own ? gettext("You") : author.name);
    setAttribute(name, "class", own || follows ? "visually-hidden" : "message-author");
    setAttribute(name, "dir", "auto");
    const old = find(":scope > .avatar", this.element);
    if (own || follows) old?.remove();
    else if (old) old.replaceWith(avatar(author));
    else this.element.prepend(avatar(author));
  }

  /** @param {any} quote */
  #showQuote(quote) {
    const place = find(".quote", this.element);
    if (!quote) {
      place.hidden = true;
      return;
    }
    const fresh = el(
      quote.gone ? "span" : "a",
      { class: "quote", "data-state": quote.gone && "gone", href: quote.gone ? null : `#m${quote.seq}`, dir: "auto" },
      quote.author && el("b", {}, quote.author),
      el("span", {}, quote.text),
    );
    if (!quote.gone) fresh.addEventListener("click", (/** @type {Event} */ event) => this.#follow(event, quote.seq));
    place.replaceWith(fresh);
  }

  /** @param {Event} event @param {number} seq */
  #follow(event, seq) {
    event.preventDefault();
    this.act("show", { ...this.entry, target: seq });
  }

  /** @param {any} shown */
  #showText({ body, unshowable, author, me }) {
    const place = this.#part("text");
    setAttribute(place, "dir", "auto");
    if (unshowable)
      return setText(
        place,
        author.name
          ? fill(gettext("This message cannot be shown here. %(name)s has been told."), { name: author.name })
          : gettext("This message cannot be shown here."),
      );
    place.replaceChildren(...parts(body).map((part) => textPart(part, me)));
  }

  /** @param {any} shown */
  #showFacts({ resent, edited, sent_at, expires_at, expiresTitle, state, stateText, receipt }) {
    this.#part("resent").hidden = !resent;
    this.#part("edited").hidden = !edited;
    const time = this.#part("time");
    setText(time, phrases.clockTime(sent_at));
    setAttribute(time, "datetime", new Date(sent_at).toISOString());
    setAttribute(time, "title", phrases.clockSeconds(sent_at));
    const left = this.#part("left");
    left.hidden = !expires_at;
    setAttribute(left, "title", expiresTitle);
    const place = this.#part("state");
    place.hidden = !state;
    if (!state) return;
    setAttribute(place, "title", stateText);
    if (state === "delivering")
      place.replaceChildren(
        reachOf(receipt),
        el("span", { "aria-hidden": "true" }, `${receipt.delivered}/${receipt.total}`),
        hidden(stateText),
      );
    else place.replaceChildren(icon(TICKS[state], "tick"), hidden(stateText));
  }

  /** @param {any} shown */
  #showActions({ actions, own, author }) {
    const bar = this.#part("actions");
    bar.hidden = !actions.length;
    setAttribute(bar, "aria-label", own ? gettext("Your message") : fill(gettext("Message by %(name)s"), { name: author.name }));
    if (bar.dataset.for === actions.join()) return;
    bar.dataset.for = actions.join();
    /** @type {Record<string, string>} */
    const labels = {
      reply: gettext("Reply"),
      edit: gettext("Edit"),
      details: gettext("Message details"),
      link: gettext("Copy link"),
      delete: gettext("Delete"),
    };
    bar.replaceChildren(
      ...actions.map((/** @type {string} */ name) =>
        iconButton(name, labels[name], () => this.act(name, this.entry), { tabindex: -1, "data-action": name }),
      ),
    );
  }

  /** @param {any} aside */
  #showAside(aside) {
    const place = this.#part("aside");
    place.hidden = !aside;
    if (!aside) return;
    setAttribute(place, "data-kind", aside.kind);
    const text = this.#part("aside-text");
    text.replaceChildren(...(aside.icon ? [icon(aside.icon, "icon-small")] : []), aside.text);
    /** @type {Record<string, string>} */
    const labels = { retry: gettext("Retry"), edit: gettext("Edit"), delete: gettext("Delete"), extend: gettext("Extend") };
    const bar = this.#part("aside-actions");
    if (bar.dataset.for === aside.actions.join()) return;
    bar.dataset.for = aside.actions.join();
    bar.replaceChildren(
      ...aside.actions.map((/** @type {string} */ name) =>
        button(labels[name], () => this.act(name, this.entry), { kind: "plain", "data-action": name }),
      ),
    );
  }

  /** @param {{tombstone: Tombstone, seq: number, resending: boolean, resendable: boolean, linked: boolean}} shown */
  #showTombstone({ tombstone, seq, resending, resendable, linked }) {
    setAttribute(this.element, "id", `m${seq}`);
    setAttribute(this.element, "data-seq", seq);
    setAttribute(this.element, "data-linked", linked);
    const head = find(".tombstone-head", this.element);
    const headline = headlineOf(tombstone);
    head.replaceChildren(
      icon(tombstone.why === "deleted" ? "delete" : "ended", "icon-small"),
      el("span", { "data-part": "head" }, headline),
      ...reachOfTombstone(tombstone),
    );
    const who = this.#part("who");
    const sentence = missedSentence(tombstone);
    who.hidden = !sentence;
    who.replaceChildren(...(sentence ?? []));
    if (tombstone.problem) who.append(` ${phrases.notResent(tombstone.problem)}`);
    const send = this.#part("resend");
    send.hidden = !resendable;
    send.disabled = resending;
    const total = tombstone.missing_total ?? 0;
    const many = total > (tombstone.missing?.length ?? 0);
    setText(
      find("span", send),
      many ? fill(ngettext("Resend to %(n)s", "Resend to %(n)s", total), { n: phrases.number(total) }) : gettext("Resend to them"),
    );
    setAttribute(
      this.element,
      "aria-label",
      `${fill(gettext("Your message of %(time)s:"), { time: phrases.clockTime(tombstone.sent_at) })} ${headline}. ${who.textContent}`.trim(),
    );
  }
}

/** me: the user's name. @param {TextPart} part @param {string} me @returns {Node} */
function textPart({ kind, text }, me) {
  if (kind === "link") return el("a", { href: text, target: "_blank", rel: "noopener nofollow" }, text);
  if (kind === "code") return el("code", {}, text);
  if (kind === "mention" && text.slice(1).toLowerCase() === me.toLowerCase()) return el("span", { class: "mention" }, text);
  return document.createTextNode(text);
}

/** @param {Receipt} receipt */
function reachOf(receipt) {
  return receipt.total > MAX_SEGMENTS ? reachBar(receipt.delivered, receipt.total) : reach(segments(receipt));
}

/** @param {Tombstone} tombstone */
function headlineOf(tombstone) {
  if (tombstone.why === "deleted") return tombstone.own_doing ? gettext("You deleted this message") : gettext("This message was deleted");
  const time = phrases.clockTime(tombstone.ended_at);
  const reached = phrases.reached(tombstone);
  return reached ? fill(gettext("Expired at %(time)s, %(reached)s"), { time, reached }) : fill(gettext("Expired at %(time)s"), { time });
}

/** @param {Tombstone} tombstone */
function reachOfTombstone(tombstone) {
  const { why, delivered = 0, read = 0, total = 0, resent_at } = tombstone;
  if (why === "deleted" || !total || delivered >= total || total > MAX_SEGMENTS) return [];
  return [reach(segments({ delivered, read, total }, resent_at ? "waiting" : "missed"))];
}

/** The sentence that names the recipients who missed it, as nodes, or null. @param {Tombstone} tombstone */
function missedSentence({ why, missing, missing_total, resent_at }) {
  if (why === "deleted" || !missing?.length) return null;
  const others = (missing_total ?? 0) - missing.length;
  if (resent_at) return resentSentence(missing, others, resent_at);
  const people = missing.map((recipient) => [bold(recipient.name), fill(gettext(" (%(reason)s)"), { reason: phrases.reason(recipient) })]);
  if (others > 0)
    return withNodes(ngettext("Never reached %(names)s and %(n)s more.", "Never reached %(names)s and %(n)s more.", others), {
      names: joined(people),
      n: phrases.number(others),
    });
  return withNodes(gettext("Never reached %(names)s."), { names: joined(people) });
}

/** @param {Missed[]} missing @param {number} others @param {number} resentAt */
function resentSentence(missing, others, resentAt) {
  const values = { names: joined(missing.map(({ name }) => [bold(name)])), n: phrases.number(others), time: phrases.clockTime(resentAt) };
  if (others > 0)
    return withNodes(
      ngettext("Resent to %(names)s and %(n)s more at %(time)s.", "Resent to %(names)s and %(n)s more at %(time)s.", others),
      values,
    );
  return withNodes(gettext("Resent to %(names)s at %(time)s."), values);
}

/** @param {string} name */
const bold = (name) => el("b", { dir: "auto" }, name);

/** Put nodes into %(name)s. @param {string} text @param {Record<string, any>} values @returns {(Node | string)[]} */
function withNodes(text, values) {
  return text.split(/(%\(\w+\)s)/).flatMap((piece) => {
    const name = piece.match(/^%\((\w+)\)s$/)?.[1];
    return name ? values[name] : piece ? [piece] : [];
  });
}

/** @param {(Node | string)[][]} groups */
const joined = (groups) => groups.flatMap((group, i) => (i ? [gettext(", "), ...group] : group));
