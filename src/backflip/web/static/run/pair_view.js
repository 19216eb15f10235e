// One pair in large, both clips on one clock, and what an admin may do about its answer.

import { choiceName } from "../words.js";
import { Controls, dialog } from "./closeup.js";
import { button, doubtful, element, tell } from "./elements.js";
import { Film, Reel } from "./films.js";
import { predictionOf } from "./said.js";
import { sent } from "./server.js";

const CHOICES = ["left", "equal", "incomparable", "right"];
const GOLD = [["left", "left is better"], ["equal", "both are as good"], ["right", "right is better"]];

export class PairView {
  #reel = null;

  /** onchange(): whenever something about an answer was put right. */
  constructor(onchange) {
    this.onchange = onchange;
    this.role = undefined;
    Object.assign(this, dialog("Pair", () => this.#clear()));
    this.stage = element("div", "stage-two", this.body);
    this.controls = new Controls(this.body, this.dialog);
    this.said = element("p", "facts", this.body);
    this.mending = element("div", "mending", this.body);
  }

  async open(pair) {
    if (this.dialog.open) return; // a second click
    tell(this.title, `Pair ${pair.query}`);
    tell(this.said, `${pair.teacher} said ${choiceName(pair.choice)}; ${predictionOf(pair.predicted_left)}.`);
    const films = ["left", "right"].map((side) => {
      const cell = element("div", "side", this.stage);
      element("h3", "", cell, side);
      const film = new Film(cell, pair[side], `${side} clip of pair ${pair.query}`);
      if (pair.choice === side) film.figure.classList.add("chosen");
      return film;
    });
    this.#reel = new Reel(films);
    this.mending.replaceChildren();
    if (this.role === "admin") this.#mend(pair);
    else element("p", "hint", this.mending, "Admins can put another answer in its place, exclude it, or make the pair a gold one.");
    this.dialog.showModal();
    await this.controls.drive(this.#reel);
  }

  #mend(pair) {
    const instead = this.#row("Another answer instead, as yours");
    for (const choice of CHOICES.filter((one) => one !== pair.choice)) {
      button(instead, choiceName(choice), () => this.#done("/api/relabel", { instead_of: pair.uuid, query: pair.query, choice }, "Answered anew."));
    }
    const out = this.#row("No answer at all");
    doubtful(out, "exclude", "really, for good?", () => this.#done("/api/exclude", { excluded: pair.uuid }, "Excluded: it counts no more."), "danger");
    const gold = this.#row("A gold pair, to measure annotators by; with a reason, one to practise on");
    const why = element("input", "why", gold);
    why.placeholder = "why? (people read it after the practice round)";
    why.maxLength = 200;
    why.value = pair.gold_why;
    why.setAttribute("aria-label", "Why that is right");
    for (const [choice, words] of GOLD) {
      const one = button(gold, words, () => this.#done("/api/gold", { query: pair.query, choice, why: why.value }, "It is a gold pair now.", false));
      one.setAttribute("aria-pressed", String(pair.gold === choice));
    }
    if (pair.gold !== null) button(gold, "no gold pair", () => this.#done("/api/gold", { query: pair.query, choice: null, why: "" }, "It is no gold pair any more.", false));
  }

  #row(title) {
    const group = element("div", "mend", this.mending);
    element("h3", "", group, title);
    return element("div", "mend-buttons", group);
  }

  async #done(path, body, words, event = true) {
    if ((await sent(path, body, words, event)) === undefined) return;
    this.dialog.close();
    this.onchange();
  }

  #clear() {
    this.#reel?.stop();
    this.#reel = null;
    this.stage.replaceChildren();
  }
}
