/** The lifetime of the next message: the chip in the composer and its menu. A choice is valid for one message. */
import { el, find, setAttribute, setText } from "./dom.js";
import { fill, gettext } from "../i18n.js";
import { choices, presetsUpTo } from "../model/lifetime-choices.js";
import * as phrases from "../phrases.js";

/** @import { Room } from "../model/room.js" */

/** @typedef {{ttl_min: number, ttl_max: number}} Limits */

/** @type {[number, () => string][]} */
const UNITS = [
  [1, () => gettext("seconds")],
  [60, () => gettext("minutes")],
  [3600, () => gettext("hours")],
  [86_400, () => gettext("days")],
];

/**
 * Fill a select with the lifetimes up to `longest` and with `current`, both in seconds.
 *
 * @param {HTMLSelectElement} select
 * @param {{current: number, longest: number}} bounds
 */
export function fillLifetimes(select, { current, longest }) {
  select.replaceChildren(
    ...presetsUpTo({ current, longest }).map((seconds) => el("option", { value: seconds }, phrases.duration(seconds))),
  );
  select.value = String(current);
}

export class LifetimePicker {
  #root = find("[data-lifetime]");
  #chip = find("summary", this.#root);
  #list = find("[data-choices]", this.#root);
  /** @type {any} */
  #custom = null;
  /** @type {Pick<Room, "ttl" | "ttl_max" | "tracked">} */
  #room = { ttl: 0, ttl_max: 0, tracked: true };
  /** @type {Limits} */
  #limits = { ttl_min: 0, ttl_max: 0 };
  /** @type {number | null} */
  #chosen = null; // s, null: the room's
  #retentionS;

  /** retentionS: how long the text of a missed message is kept for a resend. @param {{retentionS: number}} settings */
  constructor({ retentionS }) {
    this.#retentionS = retentionS;
    this.#root.addEventListener("toggle", () => this.#root.open && this.#opened());
    this.#root.addEventListener("keydown", (/** @type {any} */ event) => this.#handleKey(event));
    document.addEventListener("pointerdown", ({ target }) => {
      if (this.#root.open && !this.#root.contains(target)) this.#root.open = false;
    });
    this.#root.addEventListener("focusout", (/** @type {FocusEvent} */ event) => {
      if (this.#root.open && event.relatedTarget && !this.#root.contains(event.relatedTarget)) this.#root.open = false;
    });
  }

  /** @param {Room} room @param {Limits} limits */
  show(room, limits) {
    if (room !== this.#room) this.#chosen = null;
    const same = room === this.#room;
    this.#room = room;
    this.#limits = limits;
    if (!same || !this.#root.open) this.#draw(); // an open menu keeps a half typed lifetime
    this.#renderChip();
    setText(find("[data-after]", this.#root), this.#consequence());
  }

  #consequence() {
    if (!this.#room.tracked)
      return gettext("Starts when the message is sent. This room is not tracked: nobody is told who missed it, and its text is not kept.");
    const report = gettext("Starts when the message is sent. You will be told who did not receive it by then.");
    const retention =
      this.#retentionS > 0
        ? fill(gettext("If someone missed it, its text is kept for %(life)s so that you can resend it."), {
            life: phrases.duration(this.#retentionS).replaceAll(" ", "\u00a0"),
          })
        : gettext("Its text is not kept after that.");
    return phrases.sentences(report, retention);
  }

  /** The message's own lifetime in seconds; null for the room's. */
  get ttl() {
    return this.#chosen;
  }

  /** The lifetime that it will have, in seconds. */
  get life() {
    return this.#chosen ?? this.#room.ttl;
  }

  reset() {
    this.#chosen = null;
    this.#draw();
    this.#renderChip();
  }

  get #longest() {
    return Math.min(this.#room.ttl_max, this.#limits.ttl_max);
  }

  #draw() {
    const notes = { over: gettext("over the maximum"), own: gettext("room default"), longest: gettext("the maximum") };
    const listed = choices({ own: this.#room.ttl, least: this.#limits.ttl_min, longest: this.#longest });
    const known = listed.some(({ seconds }) => seconds === this.life);
    const lineOf = (/** @type {ReturnType<typeof choices>[number]} */ { seconds, allowed, note }) =>
      el(
        "label",
        { class: "choice" },
        el("input", { type: "radio", name: "ttl", value: seconds, disabled: !allowed, on: { change: () => this.#choose(seconds) } }),
        el("span", { class: "choice-text" }, phrases.duration(seconds)),
        note && el("small", {}, notes[note]),
      );
    this.#custom = this.#customFields();
    const custom = el(
      "label",
      { class: "choice" },
      el("input", { type: "radio", name: "ttl", value: "custom", on: { change: () => this.#askCustom() } }),
      el(
        "span",
        { class: "choice-text" },
        known ? gettext("Custom…") : fill(gettext("Custom: %(life)s"), { life: phrases.duration(this.life) }),
      ),
    );
    this.#list.replaceChildren(...listed.map(lineOf), custom, this.#custom);
    const current = this.#list.querySelector(known ? `input[value="${this.life}"]` : 'input[value="custom"]');
    current.checked = true;
  }

  #customFields() {
    const amount = el("input", {
      type: "number",
      min: 1,
      step: 1,
      inputmode: "numeric",
      "aria-label": gettext("How long"),
      "aria-describedby": "custom-ttl-error",
      id: "custom-ttl",
    });
    const unit = el(
      "select",
      { "aria-label": gettext("Unit") },
      UNITS.map(([size, name]) => el("option", { value: size, selected: size === 60 }, name())),
    );
    const error = el("p", { class: "field-error", id: "custom-ttl-error", role: "status" });
    const use = el(
      "button",
      { class: "button", type: "button", on: { click: () => this.#useCustom(amount, unit, error) } },
      gettext("Set"),
    );
    amount.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // do not send the message
      this.#useCustom(amount, unit, error);
    });
    return el("div", { class: "field", hidden: true }, el("div", { class: "field-row" }, amount, unit, use), error);
  }

  #askCustom() {
    this.#custom.hidden = false;
    find("input", this.#custom).focus();
  }

  /** @param {HTMLInputElement} amount @param {HTMLSelectElement} unit @param {HTMLElement} error */
  #useCustom(amount, unit, error) {
    const seconds = Math.round(Number(amount.value) * Number(unit.value));
    const { ttl_min } = this.#limits;
    if (!Number.isSafeInteger(seconds) || seconds < ttl_min || seconds > this.#longest) {
      setAttribute(amount, "aria-invalid", "true");
      setText(error, phrases.lifetimeBounds(ttl_min, this.#longest));
      return;
    }
    this.#choose(seconds);
    this.#close();
  }

  /** @param {number} seconds */
  #choose(seconds) {
    this.#chosen = seconds === this.#room.ttl ? null : seconds;
    this.#renderChip();
  }

  #renderChip() {
    const life = phrases.duration(this.life);
    setAttribute(this.#chip, "data-changed", this.#chosen !== null);
    setText(
      find("summary > span", this.#root),
      this.#chosen === null ? life : fill(gettext("%(life)s, this message"), { life: phrases.shortDuration(this.#chosen) }),
    );
    setAttribute(
      this.#chip,
      "aria-label",
      fill(
        this.#chosen === null
          ? gettext("Lifetime of this message: %(life)s, the room default. Change")
          : gettext("Lifetime of this message: %(life)s. Change"),
        { life },
      ),
    );
  }

  #opened() {
    this.#draw();
    (this.#list.querySelector("input:checked") ?? this.#list.querySelector("input")).focus();
  }

  /** @param {any} event */
  #handleKey(event) {
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
