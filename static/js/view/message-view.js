/**
 * One message on the screen. The markup is the template's; this puts words and states into it and never looks at
 * anything but the entry it is given (entries.js). Nothing is parsed as markup.
 */
import { parts } from "../model/message-text.js";
import { avatar, button, el, find, hidden, icon, iconButton, reach, reachBar, setAttribute, setRing, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { SEGMENTS_MOST, segments } from "../model/delivery-state.js";
import * as words from "../phrases.js";

const TICKS = { sending: "sending", waiting: "sending", sent: "sent", delivered: "delivered", read: "read", failed: "failed" };
let ids = 0;

export class MessageView {
  /** act(name, entry): what the user chose on it. */
  constructor({ templates, act }) {
    this.templates = templates;
    this.act = act;
    this.id = `m-${++ids}`;
    this.element = null;
    this.entry = null;
    this.shown = "";
  }

  /** Show the entry; true when the element is another one than before. */
  update(entry) {
    const fingerprint = JSON.stringify(entry.shown);
    const first = this.element === null || (entry.kind === "tombstone") !== (this.entry.kind === "tombstone");
    this.entry = entry;
    if (!first && fingerprint === this.shown) return false;
    this.shown = fingerprint;
    if (first) this.#make(entry);
    if (entry.kind === "tombstone") this.#bury(entry.shown);
    else this.#show(entry.shown);
    return first;
  }

  /** What is left of its life; called by the page's one timer. */
  tick(now) {
    const { sent_at, expires_at } = this.entry.shown;
    const left = expires_at && this.#part("left");
    if (!left) return;
    const ms = expires_at - now;
    setText(this.#part("left-text"), words.remaining(ms));
    setRing(find(".ring", left), Math.round(Math.max(0, Math.min(100, (100 * ms) / (expires_at - sent_at)))));
    setAttribute(left, "data-left", ms <= 60_000 ? "last-minute" : null);
  }

  #make(entry) {
    const template = this.templates[entry.kind === "tombstone" ? "tombstone" : "message"];
    const fresh = template.content.firstElementChild.cloneNode(true);
    setAttribute(fresh, "tabindex", this.element?.tabIndex ?? -1);
    if (this.element) {
      const focused = this.element.contains(document.activeElement);
      this.element.replaceWith(fresh);
      if (focused) fresh.focus({ preventScroll: true });
    }
    this.element = fresh;
    for (const part of ["author", "text", "facts", "aside-text"]) setAttribute(this.#part(part) ?? fresh, "id", this.#part(part) ? `${this.id}-${part}` : null);
    if (entry.kind === "tombstone") this.#part("resend").addEventListener("click", () => this.act("resend", this.entry));
  }

  #part(name) {
    return find(`[data-part="${name}"]`, this.element);
  }

  #show(shown) {
    const { element } = this;
    setAttribute(element, "id", shown.seq ? `m${shown.seq}` : null);
    setAttribute(element, "data-seq", shown.seq);
    setAttribute(element, "data-own", shown.own);
    setAttribute(element, "data-follows", shown.follows);
    setAttribute(element, "data-state", shown.unshowable ? "unknown" : shown.state);
    setAttribute(element, "data-linked", shown.linked);
    setAttribute(element, "aria-labelledby", ["author", "text", "facts", ...(shown.aside ? ["aside-text"] : [])].map((part) => `${this.id}-${part}`).join(" "));
    this.#showAuthor(shown);
    this.#showQuote(shown.quote);
    this.#showText(shown);
    this.#showFacts(shown);
    this.#showActions(shown);
    this.#showAside(shown.aside);
  }

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

  #showQuote(quote) {
    const place = find(".quote", this.element);
    if (!quote) {
      place.hidden = true;
      return;
    }
    const fresh = el(quote.gone ? "span" : "a", { class: "quote", "data-state": quote.gone && "gone", href: quote.gone ? null : `#m${quote.seq}`, dir: "auto" }, quote.author && el("b", {}, quote.author), el("span", {}, quote.text));
    if (!quote.gone) fresh.addEventListener("click", (event) => this.#follow(event, quote.seq));
    place.replaceWith(fresh);
  }

  #follow(event, seq) {
    event.preventDefault();
    this.act("show", { ...this.entry, target: seq });
  }

  #showText({ body, unshowable, author, me }) {
    const place = this.#part("text");
    setAttribute(place, "dir", "auto");
    if (unshowable) return setText(place, author.name ? fill(gettext("This message cannot be shown here. %(name)s has been told."), { name: author.name }) : gettext("This message cannot be shown here."));
    place.replaceChildren(...parts(body).map((part) => textPart(part, me)));
  }

  #showFacts({ resent, edited, sent_at, expires_at, expires_title, state, state_text, receipt }) {
    this.#part("resent").hidden = !resent;
    this.#part("edited").hidden = !edited;
    const time = this.#part("time");
    setText(time, words.clockTime(sent_at));
    setAttribute(time, "datetime", new Date(sent_at).toISOString());
    setAttribute(time, "title", words.clockSeconds(sent_at));
    const left = this.#part("left");
    left.hidden = !expires_at;
    setAttribute(left, "title", expires_title);
    const place = this.#part("state");
    place.hidden = !state;
    if (!state) return;
    setAttribute(place, "title", state_text);
    if (state === "delivering") place.replaceChildren(reachOf(receipt), el("span", { "aria-hidden": "true" }, `${receipt.delivered}/${receipt.total}`), hidden(state_text));
    else place.replaceChildren(icon(TICKS[state], "tick"), hidden(state_text));
  }

  #showActions({ actions, own, author, body }) {
    const bar = this.#part("actions");
    bar.hidden = !actions.length;
    setAttribute(bar, "aria-label", own ? gettext("Your message") : fill(gettext("Message by %(name)s"), { name: author.name }));
    if (bar.dataset.for === actions.join()) return;
    bar.dataset.for = actions.join();
    const labels = { reply: gettext("Reply"), edit: gettext("Edit"), details: gettext("Message details"), link: gettext("Copy link"), delete: gettext("Delete") };
    bar.replaceChildren(...actions.map((name) => iconButton(name, labels[name], () => this.act(name, this.entry), { tabindex: -1, "data-action": name })));
  }

  #showAside(aside) {
    const place = this.#part("aside");
    place.hidden = !aside;
    if (!aside) return;
    setAttribute(place, "data-kind", aside.kind);
    const text = this.#part("aside-text");
    text.replaceChildren(...(aside.icon ? [icon(aside.icon, "icon-small")] : []), aside.text);
    const labels = { retry: gettext("Retry"), edit: gettext("Edit"), delete: gettext("Delete"), extend: gettext("Extend") };
    const bar = this.#part("aside-actions");
    if (bar.dataset.for === aside.actions.join()) return;
    bar.dataset.for = aside.actions.join();
    bar.replaceChildren(...aside.actions.map((name) => button(labels[name], () => this.act(name, this.entry), { kind: "plain", "data-action": name })));
  }

  #bury({ stone, seq, resending, resendable, linked }) {
    setAttribute(this.element, "id", `m${seq}`);
    setAttribute(this.element, "data-seq", seq);
    setAttribute(this.element, "data-linked", linked);
    const head = find(".tombstone-head", this.element);
    const line = headOf(stone);
    head.replaceChildren(icon(stone.why === "deleted" ? "delete" : "ended", "icon-small"), el("span", { "data-part": "head" }, line), ...lineOf(stone));
    const who = this.#part("who");
    const missing = whoOf(stone);
    who.hidden = !missing;
    who.replaceChildren(...(missing ?? []));
    if (stone.problem) who.append(` ${words.notResent(stone.problem)}`);
    const send = this.#part("resend");
    send.hidden = !resendable;
    send.disabled = resending;
    const many = (stone.missing_total ?? 0) > (stone.missing?.length ?? 0);
    setText(find("span", send), many ? fill(ngettext("Resend to %(n)s", "Resend to %(n)s", stone.missing_total), { n: words.number(stone.missing_total) }) : gettext("Resend to them"));
    setAttribute(this.element, "aria-label", `${fill(gettext("Your message of %(time)s:"), { time: words.clockTime(stone.sent_at) })} ${line}. ${who.textContent}`.trim());
  }
}

function textPart({ kind, text }, me) {
  if (kind === "link") return el("a", { href: text, target: "_blank", rel: "noopener nofollow" }, text);
  if (kind === "code") return el("code", {}, text);
  if (kind === "mention" && text.slice(1).toLowerCase() === me.toLowerCase()) return el("span", { class: "mention" }, text);
  return document.createTextNode(text);
}

function reachOf(receipt) {
  return receipt.total > SEGMENTS_MOST ? reachBar(receipt.delivered, receipt.total) : reach(segments(receipt));
}

function headOf(stone) {
  if (stone.why === "deleted") return stone.own_doing ? gettext("You deleted this message") : gettext("This message was deleted");
  const time = words.clockTime(stone.ended_at);
  const reached = words.reached(stone);
  return reached ? fill(gettext("Expired %(time)s, %(reached)s"), { time, reached }) : fill(gettext("Expired %(time)s"), { time });
}

function lineOf(stone) {
  if (stone.why === "deleted" || !stone.total || stone.delivered >= stone.total || stone.total > SEGMENTS_MOST) return [];
  return [reach(segments({ delivered: stone.delivered, read: stone.read ?? 0, total: stone.total }, stone.resent_at ? "waiting" : "missed"))];
}

/** The sentence that names who missed it, as nodes, or null. */
function whoOf(stone) {
  if (stone.why === "deleted" || !stone.missing?.length) return null;
  const bold = (name) => el("b", { dir: "auto" }, name);
  const others = (stone.missing_total ?? 0) - stone.missing.length;
  if (stone.resent_at) return resentTo(stone, others, bold);
  const people = stone.missing.map((one) => [bold(one.name), fill(gettext(" (%(reason)s)"), { reason: words.reason(one) })]);
  if (others > 0) return sentence(ngettext("Never reached %(names)s and %(n)s more.", "Never reached %(names)s and %(n)s more.", others), { names: joined(people), n: words.number(others) });
  return sentence(gettext("Never reached %(names)s."), { names: joined(people) });
}

function resentTo({ missing, resent_at }, others, bold) {
  const values = { names: joined(missing.map(({ name }) => [bold(name)])), n: words.number(others), time: words.clockTime(resent_at) };
  if (others > 0) return sentence(ngettext("Resent to %(names)s and %(n)s more at %(time)s.", "Resent to %(names)s and %(n)s more at %(time)s.", others), values);
  return sentence(gettext("Resent to %(names)s at %(time)s."), values);
}

/** Put nodes into %(name)s. */
function sentence(text, values) {
  return text.split(/(%\(\w+\)s)/).flatMap((piece) => {
    const name = piece.match(/^%\((\w+)\)s$/)?.[1];
    return name ? values[name] : piece ? [piece] : [];
  });
}

const joined = (groups) => groups.flatMap((group, i) => (i ? [gettext(", "), ...group] : group));
