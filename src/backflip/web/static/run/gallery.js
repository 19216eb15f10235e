// Clips: what r̂ pays most and least, where its members disagree, what is new; each moves while one looks at it.

import { isText } from "../texts.js";
import { amount, isNumber, many } from "../words.js";
import { Closeup } from "./closeup.js";
import { Pager, button, choiceOf, element, tell } from "./elements.js";
import { Film, Reel, playOver } from "./films.js";
import { heard } from "./server.js";

const ORDERS = [["highest", "highest r̂"], ["lowest", "lowest r̂"], ["disagreed", "most disagreed"], ["newest", "newest"], ["flagged", "flagged"]];
const EMPTY = {
  newest: "No clips yet. They are drawn for people; a run that a program teaches has none.",
  flagged: "Nobody has flagged a pair.",
};
const NO_REWARD = "r̂ has not been asked about any clip yet; “newest” shows them without it.";

export class Gallery {
  #shown = []; // reels
  #version = null;

  constructor(panel) {
    this.order = "highest";
    this.closeup = new Closeup();
    const tools = element("div", "tools-row", panel);
    choiceOf(tools, "Order", ORDERS, this.order, (order) => {
      this.order = order;
      this.show(1);
    });
    const range = element("form", "range", tools);
    element("span", "hint", range, "policy step");
    this.from = stepInput(range, "from");
    element("span", "hint", range, "–");
    this.to = stepInput(range, "to");
    for (const input of [this.from, this.to]) input.addEventListener("change", () => this.show(1));
    range.addEventListener("submit", (event) => {
      event.preventDefault();
      this.show(1);
    });
    element("span", "spacer", tools);
    this.about = element("span", "hint", tools);
    this.news = button(tools, "", () => this.show(1), "news");
    this.news.hidden = true;
    this.empty = element("p", "empty card sheet", panel);
    this.empty.hidden = true;
    this.list = element("div", "gallery", panel);
    this.pager = new Pager(panel, (page) => this.show(page));
  }

  hear({ now }) {
    const newer = isNumber(now.fit.version) && this.#version !== null && now.fit.version > this.#version;
    this.news.hidden = !newer;
    if (newer) tell(this.news, `r̂ #${now.fit.version} is out · sort anew`);
  }

  /** Whoever comes to the panel sees it filled; what they look at is never sorted anew under their eyes. */
  async refresh() {
    if (this.list.childElementCount === 0) await this.show(1);
  }

  async show(page) {
    const query = { sort: this.order, from: stepsOf(this.from), to: stepsOf(this.to), page };
    const found = await heard("/api/clips", query);
    if (found === undefined) return;
    for (const reel of this.#shown) reel.stop();
    this.#version = found.version;
    this.news.hidden = true;
    this.list.replaceChildren();
    this.#shown = found.clips.map((clip) => this.#card(clip));
    this.pager.show(found.page, found.pages);
    this.empty.hidden = found.clips.length > 0;
    tell(this.empty, EMPTY[this.order] ?? (found.steps === null ? EMPTY.newest : found.version === null ? NO_REWARD : "No clip of these steps has an r̂ yet."));
    tell(this.about, found.total ? `${many(found.total, found.clips.some(({ clip }) => clip && isText(clip)) ? "completion" : "clip")}${isNumber(found.version) ? ` · by r̂ #${found.version}` : ""}` : "");
    if (found.steps !== null) {
      this.from.placeholder = amount(found.steps[0]);
      this.to.placeholder = amount(found.steps[1]);
    }
    if (page > 1 || this.list.getBoundingClientRect().top < 0) this.list.scrollIntoView({ block: "nearest" });
  }

  #card(clip) {
    const card = element("button", "clip-card card", this.list);
    card.type = "button";
    const film = new Film(card, clip.clip, `clip ${clip.segment}`);
    const reel = new Reel([film]);
    playOver(card, reel);
    const facts = element("span", "clip-facts", card);
    element("b", "", facts, isNumber(clip.reward) ? signed(clip.reward) : "–").title = "r̂, summed over the clip";
    if (isNumber(clip.disagreement)) element("span", "", facts, `± ${amount(clip.disagreement, 2)}`).title = "standard deviation over members";
    element("span", "where", facts, `step ${amount(clip.policy_steps)}`);
    if (clip.flagged !== null) element("span", "flag", card, clip.flagged || "flagged");
    card.addEventListener("click", () => {
      reel.stop();
      this.closeup.open(clip.segment);
    });
    return reel;
  }
}

export const signed = (value) => (value > 0 ? `+${amount(value, 3)}` : amount(value, 3));

function stepInput(parent, name) {
  const input = element("input", "steps", parent);
  input.setAttribute("aria-label", `${name} policy step`);
  input.inputMode = "text";
  input.size = 7;
  return input;
}

/** "1.5 M" -> 1500000; undefined, and marked, where it is no number. */
export function stepsOf(input) {
  const match = /^\s*(\d+(?:[.,]\d+)?)\s*([kKmM]?)\s*$/.exec(input.value);
  const wrong = input.value.trim() !== "" && match === null;
  input.toggleAttribute("aria-invalid", wrong);
  if (match === null) return undefined;
  return Math.round(Number(match[1].replace(",", ".")) * ({ k: 1e3, m: 1e6 }[match[2].toLowerCase()] ?? 1));
}
