// Bars, and shares with their intervals, from plain boxes: sharp at any size, nothing to redraw.

import { element, tell } from "./elements.js";

/** How many there were in ranges that follow each other. */
export class Bars {
  #bars = [];

  /** spec: {title, hint, empty, colour, from: start -> text, to: start -> text, name: (start, count) -> text}. */
  constructor(parent, spec) {
    this.spec = spec;
    const card = element("article", "chart card", parent);
    const head = element("header", "", card);
    element("h2", "", head, spec.title);
    this.aside = element("span", "key legend", head);
    const area = element("div", "area", card);
    this.empty = element("p", "empty", area, spec.empty);
    this.top = element("span", "bars-top", area);
    this.row = element("div", "bars", area);
    this.row.setAttribute("role", "img");
    this.row.dataset.colour = spec.colour;
    this.ends = element("p", "bars-ends", area);
    this.first = element("span", "", this.ends);
    this.last = element("span", "", this.ends);
    element("p", "hint", card, spec.hint);
    this.show([]);
  }

  /** bars: [{start, count}]; aside: what to say beside the title. */
  show(bars, aside = "") {
    const most = Math.max(0, ...bars.map(({ count }) => count));
    this.empty.hidden = most > 0;
    this.row.hidden = this.ends.hidden = this.top.hidden = most === 0;
    tell(this.aside, aside);
    if (most === 0) return;
    tell(this.top, String(most));
    while (this.#bars.length > bars.length) this.#bars.pop().remove();
    while (this.#bars.length < bars.length) this.#bars.push(element("i", "", this.row));
    bars.forEach(({ start, count }, i) => {
      this.#bars[i].style.height = `${(100 * count) / most}%`;
      this.#bars[i].title = this.spec.name(start, count);
    });
    tell(this.first, this.spec.from(bars[0].start));
    tell(this.last, this.spec.to(bars.at(-1).start));
    this.row.setAttribute("aria-label", bars.filter(({ count }) => count).map(({ start, count }) => this.spec.name(start, count)).join("; "));
  }
}

/** Put something at a share of its box: from the left, from the bottom. */
export function place(node, left, bottom) {
  node.style.left = `${100 * left}%`;
  node.style.bottom = `${100 * bottom}%`;
}
