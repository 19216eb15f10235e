// Reward model: its curves, and how often what it predicted came true.

import { many } from "../words.js";
import { place } from "./bars.js";
import { SINCE_REWARD, percent } from "./curves.js";
import { byId, element, tell } from "./elements.js";
import { heard } from "./server.js";

export class Reward {
  #newest = -1;
  #dots = [];

  constructor(charts) {
    const card = element("article", "chart card", charts);
    charts.insertBefore(card, charts.children[4]); // beside agreement, of which it is the other half
    const head = element("header", "", card);
    element("h2", "", head, "Reliability");
    this.of = element("span", "key legend", head);
    const area = element("div", "area", card);
    this.empty = element("p", "empty", area, SINCE_REWARD);
    this.plot = element("div", "reliability", area);
    this.plot.setAttribute("role", "img");
    element("i", "diagonal", this.plot);
    for (const value of [0.25, 0.5, 0.75, 1]) {
      const line = element("span", "level", this.plot, percent(value));
      place(line, 0, value);
    }
    for (const value of [0.5, 0.6, 0.7, 0.8, 0.9, 1]) {
      const tick = element("span", "tick", this.plot, percent(value));
      place(tick, (value - 0.5) / 0.5, 0);
    }
    this.plot.hidden = true;
    element("p", "hint", card, "How often the side that r̂ held for the better one was chosen (upwards), by how sure r̂ was (to the right). On the line r̂ is as sure as it should be; below it, too sure. Bars are 95 %.");
  }

  hear({ now }) {
    const { on, sentence } = now.alarm;
    byId("verdict").hidden = !sentence || on === true;
    tell(byId("verdict"), sentence ?? "");
  }

  async refresh() {
    const news = await heard("/api/reliability", { since: this.#newest });
    if (!news) return;
    this.#newest = news.newest;
    const { rows } = news;
    this.empty.hidden = rows.length > 0;
    this.plot.hidden = rows.length === 0;
    tell(this.of, rows.length ? many(news.of, "answer") : "");
    while (this.#dots.length > rows.length) this.#dots.pop().remove();
    while (this.#dots.length < rows.length) {
      const dot = element("span", "dot-and-bar", this.plot);
      element("i", "", dot);
      element("b", "", dot);
      this.#dots.push(dot);
    }
    const most = Math.max(1, ...rows.map(({ share }) => share.of));
    rows.forEach(({ predicted, share }, i) => {
      const [bar, point] = this.#dots[i].children;
      this.#dots[i].style.left = `${200 * (predicted - 0.5)}%`;
      bar.style.bottom = `${100 * share.low}%`;
      bar.style.height = `${100 * (share.high - share.low)}%`;
      point.style.bottom = `${100 * share.value}%`;
      point.style.setProperty("--size", `${6 + 8 * Math.sqrt(share.of / most)}px`);
      this.#dots[i].title = wordsOf(predicted, share);
    });
    this.plot.setAttribute("aria-label", rows.map(({ predicted, share }) => wordsOf(predicted, share)).join("; "));
  }
}

const wordsOf = (predicted, share) => `predicted ${percent(predicted)}, came true ${percent(share.value)} of ${share.of}`;
