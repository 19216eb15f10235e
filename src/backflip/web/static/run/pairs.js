// Pairs: what people said and r̂ had predicted, greatest surprises first; admins put right what was wrong.

import { isText } from "../texts.js";
import { amount, choiceName, duration, isNumber, many } from "../words.js";
import { Pager, button, choiceOf, element, tell } from "./elements.js";
import { Film, Reel, playOver } from "./films.js";
import { PairView } from "./pair_view.js";
import { predictionOf } from "./said.js";
import { heard } from "./server.js";

const WORST = Math.log(20); // with the 10 % error, no answer can surprise more
const EMPTY = { surprise: "No answers to pairs that were asked since there is an r̂.", newest: "No answers yet." };

export class PairList {
  #shown = []; // reels
  #newest = null; // number of the newest event that the list knows of
  #labels = null;

  constructor(panel) {
    this.order = "surprise";
    this.annotator = "";
    this.view = new PairView(() => this.show(this.pager.page));
    const tools = element("div", "tools-row", panel);
    this.orders = choiceOf(tools, "Order", [["surprise", "greatest surprises"], ["newest", "newest"]], this.order, (order) => {
      this.order = order;
      this.show(1);
    });
    this.one = button(tools, "", () => {
      this.annotator = "";
      this.show(1);
    }, "news");
    element("span", "spacer", tools);
    this.about = element("span", "hint", tools);
    this.news = button(tools, "", () => this.show(1), "news");
    this.news.hidden = this.one.hidden = true;
    this.empty = element("p", "empty card sheet", panel);
    this.empty.hidden = true;
    this.list = element("div", "pairs", panel);
    this.pager = new Pager(panel, (page) => this.show(page));
  }

  /** Show the answers of one annotator, newest first. */
  of(name) {
    this.annotator = name;
    this.order = "newest";
    this.orders.choose("newest");
    this.list.replaceChildren();
  }

  hear({ counts, role, now }) {
    this.view.role = role;
    this.now = now.time;
    if (this.#labels === null) this.#labels = counts.labels;
    const more = counts.labels - this.#labels;
    this.news.hidden = this.#newest === null || more === 0;
    tell(this.news, more > 0 ? `${many(more, "new answer")} · show` : "answers were taken back · show");
  }

  /** What somebody looks at stays where it is; a button says when there is more. */
  async refresh() {
    if (this.list.childElementCount === 0) await this.show(1);
  }

  async show(page) {
    const found = await heard("/api/pairs", { order: this.order, annotator: this.annotator, page });
    if (found === undefined) return;
    if (found.pairs.length === 0 && page > 1) return this.show(page - 1); // the last one of that page was excluded
    for (const reel of this.#shown) reel.stop();
    this.#newest = found.newest;
    this.#labels = null;
    this.news.hidden = true;
    this.one.hidden = this.annotator === "";
    tell(this.one, `only ${this.annotator} ✕`);
    this.one.setAttribute("aria-label", `Only answers of ${this.annotator}; show those of all`);
    this.list.replaceChildren();
    this.#shown = found.pairs.map((pair) => this.#card(pair));
    this.empty.hidden = found.pairs.length > 0;
    tell(this.empty, EMPTY[this.order]);
    tell(this.about, found.total ? many(found.total, "answer") : "");
    this.pager.show(found.page, found.pages);
    if (this.list.getBoundingClientRect().top < 0) this.list.scrollIntoView({ block: "start" });
  }

  #card(pair) {
    const card = element("article", "pair card", this.list);
    const films = element("div", "films", card);
    const reel = new Reel(["left", "right"].map((side) => {
      const cell = element("div", "side", films);
      const film = new Film(cell, pair[side], `${side} clip of pair ${pair.query}`);
      if (pair.choice === side) film.figure.classList.add("chosen");
      return film;
    }));
    playOver(card, reel);
    const words = element("div", "words", card);
    const said = element("p", "verdicts", words);
    element("b", "", said, `${pair.teacher} said ${choiceName(pair.choice)}`);
    element("span", "", said, `, ${predictionOf(pair.predicted_left)}`);
    if (isNumber(pair.surprise)) {
      const gauge = element("span", "gauge", words);
      element("i", "", gauge).style.width = `${100 * Math.min(1, pair.surprise / WORST)}%`;
      gauge.title = `${pair.surprise.toFixed(2)} nats; a coin’s is 0.69`;
      element("span", "hint", words, `surprise ${pair.surprise.toFixed(2)} nats`);
    }
    const facts = [`pair ${pair.query}`, `step ${amount(pair.policy_steps)}`];
    if (isNumber(pair.seconds)) facts.push(`after ${pair.seconds.toFixed(1)} s`);
    if (isNumber(this.now) && isNumber(pair.at)) facts.push(`${duration(Math.max(0, this.now - pair.at))} ago`);
    element("p", "hint", words, facts.join(" · "));
    if (pair.gold !== null) element("p", "gold", words, `gold: ${choiceName(pair.gold)}${pair.gold_why ? `, ${pair.gold_why}` : ""}`);
    const verb = [pair.left, pair.right].some((clip) => clip && isText(clip)) ? "read" : "watch";
    const open = button(words, pair.left && pair.right ? verb : "look closer", () => {
      reel.stop();
      this.view.open(pair);
    });
    open.setAttribute("aria-label", `${verb[0].toUpperCase()}${verb.slice(1)} pair ${pair.query}`);
    return reel;
  }
}
