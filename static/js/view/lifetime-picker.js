/** The lifetime a message will have: the chip in the composer and its menu. Holds for one message, then the room's again. */
import { el, find, setAttribute, setText } from "./dom.js";
import { fill, gettext } from "../i18n.js";
import * as words from "../phrases.js";

export const PRESETS = [30, 300, 3600, 28_800, 86_400, 604_800, 2_419_200]; // s
const UNITS = [[1, () => gettext("seconds")], [60, () => gettext("minutes")], [3600, () => gettext("hours")], [86_400, () => gettext("days")]];

/** What the menu lists, ascending: the presets from the shortest allowed on, the room's own and the longest allowed. */
export function choices({ own, least, longest }) {
  return [...new Set([...PRESETS, own, longest])].filter((seconds) => seconds >= least).sort((a, b) => a - b).map((seconds) => ({
    seconds,
    allowed: seconds <= longest,
    note: seconds > longest ? "over" : seconds === own ? "own" : seconds === longest ? "longest" : null,
  }));
}

/** Fill a select with lifetimes up to `longest`, keeping `current` even when it is none of the presets. */
export function fillLifetimes(select, { current, longest }) {
  const listed = [...new Set([...PRESETS.filter((seconds) => seconds <= longest), current])].sort((a, b) => a - b);
  select.replaceChildren(...listed.map((seconds) => el("option", { value: seconds }, words.duration(seconds))));
  select.value = String(current);
}

export class Lifetime {
  #root = find("[data-lifetime]");
  #chip = find("summary", this.#root);
  #list = find("[data-choices]", this.#root);
  #custom = null;
  #room = null;
  #limits;
  #chosen = null; // s, null: the room's
  #changed;
  #retention_s;

  /** retention_s: how long the text of what somebody missed is kept for a resend. */
  constructor({ retention_s, changed }) {
    this.#changed = changed;
    this.#retention_s = retention_s;
    this.#root.addEventListener("toggle", () => this.#root.open && this.#opened());
    this.#root.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("pointerdown", (event) => {
      if (this.#root.open && !this.#root.contains(event.target)) this.#root.open = false;
    });
    this.#root.addEventListener("focusout", (event) => {
      if (this.#root.open && event.relatedTarget && !this.#root.contains(event.relatedTarget)) this.#root.open = false;
    });
  }

  show(room, limits) {
    if (room !== this.#room) this.#chosen = null;
    const same = room === this.#room;
    this.#room = room;
    this.#limits = limits;
    if (!same || !this.#root.open) this.#draw(); // who chooses just now keeps what is half typed
    this.#label();
    setText(find("[data-after]", this.#root), this.#whatComesAfter());
  }

  #whatComesAfter() {
    if (!this.#room.tracked) return gettext("Starts when it is sent. This room is not tracked: nobody is told who missed it, and its text is not kept.");
    const told = gettext("Starts when it is sent. Whoever has not got it by then is named to you.");
    const kept = this.#retention_s > 0 ? fill(gettext("If somebody missed it, its text is kept for %(life)s, so that you can resend it."), { life: words.duration(this.#retention_s).replaceAll(" ", "\u00a0") }) : gettext("Its text is not kept after that.");
    return words.sentences(told, kept);
  }

  /** Seconds for `send`; null for the room's own. */
  get ttl() {
    return this.#chosen;
  }

  /** Seconds, whichever applies. */
  get life() {
    return this.#chosen ?? this.#room.ttl;
  }

  reset() {
    this.#chosen = null;
    this.#draw();
    this.#label();
  }

  get #longest() {
    return Math.min(this.#room.ttl_max, this.#limits.ttl_max);
  }

  #draw() {
    const notes = { over: gettext("over the maximum"), own: gettext("the room’s"), longest: gettext("the longest here") };
    const listed = choices({ own: this.#room.ttl, least: this.#limits.ttl_min, longest: this.#longest });
    const known = listed.some(({ seconds }) => seconds === this.life);
    const line = ({ seconds, allowed, note }) => el("label", { class: "choice" }, el("input", { type: "radio", name: "ttl", value: seconds, disabled: !allowed, on: { change: () => this.#choose(seconds) } }), el("span", { class: "choice-text" }, words.duration(seconds)), note && el("small", {}, notes[note]));
    this.#custom = this.#customFields();
    const custom = el("label", { class: "choice" }, el("input", { type: "radio", name: "ttl", value: "custom", on: { change: () => this.#askCustom() } }), el("span", { class: "choice-text" }, known ? gettext("Custom…") : fill(gettext("Custom: %(life)s"), { life: words.duration(this.life) })));
    this.#list.replaceChildren(...listed.map(line), custom, this.#custom);
    const current = this.#list.querySelector(known ? `input[value="${this.life}"]` : 'input[value="custom"]');
    current.checked = true;
  }

  #customFields() {
    const amount = el("input", { type: "number", min: 1, step: 1, inputmode: "numeric", "aria-label": gettext("How long"), "aria-describedby": "custom-ttl-error", id: "custom-ttl" });
    const unit = el("select", { "aria-label": gettext("Unit") }, UNITS.map(([size, name]) => el("option", { value: size, selected: size === 60 }, name())));
    const error = el("p", { class: "field-error", id: "custom-ttl-error", role: "status" });
    const use = el("button", { class: "button", type: "button", on: { click: () => this.#useCustom(amount, unit, error) } }, gettext("Use"));
    amount.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // not the message
      this.#useCustom(amount, unit, error);
    });
    return el("div", { class: "field", hidden: true }, el("div", { class: "field-row" }, amount, unit, use), error);
  }

  #askCustom() {
    this.#custom.hidden = false;
    find("input", this.#custom).focus();
  }

  #useCustom(amount, unit, error) {
    const seconds = Math.round(Number(amount.value) * Number(unit.value));
    const { ttl_min } = this.#limits;
    if (!Number.isSafeInteger(seconds) || seconds < ttl_min || seconds > this.#longest) {
      setAttribute(amount, "aria-invalid", "true");
      setText(error, words.lifetimeBounds(ttl_min, this.#longest));
      return;
    }
    this.#choose(seconds);
    this.#close();
  }

  #choose(seconds) {
    this.#chosen = seconds === this.#room.ttl ? null : seconds;
    this.#label();
    this.#changed();
  }

  #label() {
    const life = words.duration(this.life);
    setAttribute(this.#chip, "data-changed", this.#chosen !== null);
    setText(find("summary > span", this.#root), this.#chosen === null ? life : fill(gettext("%(life)s, this message"), { life: words.shortDuration(this.#chosen) }));
    setAttribute(this.#chip, "aria-label", fill(this.#chosen === null ? gettext("Lifetime of this message: %(life)s, the room’s. Change") : gettext("Lifetime of this message: %(life)s. Change"), { life }));
  }

  #opened() {
    this.#draw();
    (this.#list.querySelector("input:checked") ?? this.#list.querySelector("input")).focus();
  }

  #key(event) {
    if (!this.#root.open) return;
    const radio = event.target.matches?.('input[type="radio"]');
    if (event.key === "Escape" || (event.key === "Enter" && radio)) {
      event.preventDefault();
      event.stopPropagation();
      if (event.key === "Enter" && event.target.value === "custom") return this.#askCustom();
      this.#close();
    }
  }

  #close() {
    this.#root.open = false;
    this.#draw();
    this.#chip.focus();
  }
}
