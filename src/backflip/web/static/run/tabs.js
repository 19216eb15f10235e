// Tabs: one panel at a time, by click, arrow keys or the address (#/clips), as the ARIA pattern has it.

import { byId } from "./elements.js";

export class Tabs {
  #tabs;

  /** onshow(name): whenever a panel comes to the front; name is the part of its tab's id after "tab-". */
  constructor(list, onshow) {
    this.onshow = onshow;
    this.#tabs = [...list.querySelectorAll("[role=tab]")];
    for (const tab of this.#tabs) tab.addEventListener("click", () => this.#go(tab));
    list.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("hashchange", () => this.#read());
  }

  /** Show what the address says. */
  begin() {
    this.#read();
  }

  #read() {
    const named = this.#tabs.find((tab) => tab.id === `tab-${location.hash.slice(2)}`);
    this.#show(named ?? this.#tabs[0]);
  }

  #go(tab) {
    const address = `#/${nameOf(tab)}`;
    if (location.hash === address) this.#show(tab);
    else location.hash = address; // hashchange shows it, as the browser's "back" does
  }

  #show(chosen) {
    for (const tab of this.#tabs) {
      const on = tab === chosen;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !on;
    }
    const { offsetLeft, offsetWidth, parentElement: list } = chosen;
    list.scrollLeft = Math.min(Math.max(list.scrollLeft, offsetLeft + offsetWidth - list.clientWidth + 24), offsetLeft - 24);
    this.onshow(nameOf(chosen));
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = this.#tabs.indexOf(event.target);
    const last = this.#tabs.length - 1;
    const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    this.#go(this.#tabs[to]);
    this.#tabs[to].focus();
  }
}

const nameOf = (tab) => tab.id.slice("tab-".length);
