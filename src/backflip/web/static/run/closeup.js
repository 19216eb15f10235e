// One clip in large, with r̂ of every member at every step below it, and what was said about it.

import { amount, choiceName, isNumber } from "../words.js";
import { button, choiceOf, element, tell } from "./elements.js";
import { Film, Reel } from "./films.js";
import { heard } from "./server.js";

const COLOURS = ["blue", "green", "orange", "violet", "grey"];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A window over the page with a title; Escape and a click beside it close it. */
export function dialog(name, onclose) {
  const made = element("dialog", "closeup", document.body);
  const head = element("header", "", made);
  const title = element("h2", "", head, name);
  title.id = `dialog-${document.querySelectorAll("dialog").length}`;
  made.setAttribute("aria-labelledby", title.id);
  button(head, "close", () => made.close(), "plain");
  const body = element("div", "body", made);
  made.addEventListener("close", onclose);
  made.addEventListener("click", (event) => { if (event.target === made) made.close(); });
  return { dialog: made, title, body };
}

/** Pause, frame by frame, speed; also by keys: space, comma, full stop. */
export class Controls {
  constructor(parent, keys) {
    const row = (this.row = element("div", "controls", parent));
    this.back = button(row, "‹ frame", () => this.#step(-1), "plain");
    this.toggle = button(row, "pause", () => this.#toggle(), "plain");
    this.toggle.autofocus = true; // else it is "close", and the space bar with it
    this.on = button(row, "frame ›", () => this.#step(1), "plain");
    choiceOf(row, "Speed", [[0.25, "¼×"], [0.5, "½×"], [1, "1×"]], 1, (rate) => { this.rate = rate; if (this.reel) this.reel.rate = rate; });
    this.rate = 1;
    keys.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Drive these films from their beginning. */
  async drive(reel) {
    this.reel = reel;
    reel.rate = this.rate;
    this.row.hidden = reel.films.every((film) => film.clip === null);
    await reel.ready();
    reel.turnable();
    reel.seek(0);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) reel.play();
    this.#say();
  }

  #toggle() {
    if (this.reel.playing) {
      this.reel.pause();
      this.reel.seek(this.reel.time); // what was to be drawn a moment later
    } else this.reel.play();
    this.#say();
  }

  #step(frames) {
    this.reel.pause();
    const fps = Math.max(1, ...this.reel.films.map((film) => film.clip?.fps ?? 1));
    const last = Math.round(this.reel.seconds * fps) - 1;
    this.reel.seek(Math.min(last, Math.floor(this.reel.time * fps + 1e-6) + frames) / fps); // a recorded frame, nothing between two
    this.#say();
  }

  #say() {
    tell(this.toggle, this.reel.playing ? "pause" : "play");
  }

  #key(event) {
    if (event.target.matches("input, textarea, select") || event.altKey || event.ctrlKey || event.metaKey) return;
    const act = { " ": () => this.#toggle(), ",": () => this.#step(-1), ".": () => this.#step(1) }[event.key];
    if (!act || (event.key === " " && event.target.matches("button"))) return;
    event.preventDefault();
    act();
  }
}

export class Closeup {
  #reel = null;
  #plot = null;

  constructor() {
    const made = dialog("Clip", () => this.#clear());
    Object.assign(this, made);
    this.stage = element("div", "stage-one", this.body);
    this.controls = new Controls(this.body, this.dialog);
    this.facts = element("p", "facts", this.body);
    this.keys = element("p", "keys", this.body);
    this.strip = element("div", "strip", this.body);
    this.said = element("ul", "said", this.body);
  }

  async open(segment) {
    const clip = await heard(`/api/clips/${segment}`);
    if (clip === undefined || this.dialog.open) return; // a second click, while the first was on its way
    tell(this.title, `Clip ${segment}`);
    const reward = isNumber(clip.reward) ? `r̂ ${amount(clip.reward, 3)} ± ${amount(clip.disagreement, 2)} · ` : "";
    tell(this.facts, `${reward}${clip.length} steps · made at step ${amount(clip.policy_steps)}`);
    this.#reel = new Reel([new Film(this.stage, clip.clip, `clip ${segment}`)]);
    this.said.replaceChildren();
    for (const { query, side, other, choice, teacher } of clip.answers) {
      element("li", "", this.said, `Pair ${query}: ${side} of clip ${other}. ${teacher} said ${choiceName(choice)}.`);
    }
    this.dialog.showModal();
    this.#draw(clip.members);
    await this.controls.drive(this.#reel);
  }

  /** A thin line a member, a thick one for their mean, and where the clip is now; a click goes there. */
  #draw(members) {
    this.strip.hidden = members.length === 0 || members[0].length === 1;
    this.keys.replaceChildren();
    if (members.length === 0) return;
    if (this.strip.hidden) { // one step has no curve
      tell(this.keys, `r̂ by member: ${members.map(([reward]) => amount(reward, 3)).join(" · ")}`);
      return;
    }
    const steps = members[0].map((_, step) => step + 1);
    const mean = steps.map((_, i) => members.reduce((sum, member) => sum + member[i], 0) / members.length);
    const names = [...members.map((_, i) => `member ${i + 1}`), "mean"];
    const colours = [...members.map((_, i) => COLOURS[i % COLOURS.length]), "text"];
    names.forEach((name, i) => {
      const key = element("span", "key", this.keys);
      key.dataset.colour = colours[i];
      element("i", "", key);
      element("span", "", key, name);
    });
    const axis = { stroke: () => css("--muted"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const options = {
      width: Math.max(120, this.strip.clientWidth),
      height: 150,
      legend: { show: false },
      padding: [8, 8, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: { x: { time: false } },
      axes: [{ ...axis, size: 26 }, { ...axis, size: 44, values: (_, ticks) => ticks.map((tick) => amount(tick, 2)) }],
      series: [{}, ...names.map((label, i) => ({
        label,
        stroke: () => css(`--${colours[i]}`),
        width: i === members.length ? 2.5 : 1.25,
        points: { show: false },
      }))],
    };
    this.#plot = new uPlot(options, [steps, ...members, mean], this.strip);
    const head = element("i", "playhead", this.#plot.over);
    const share = (seconds) => seconds / this.#reel.seconds;
    this.#reel.ontime = (seconds) => {
      const at = 1 + share(seconds) * (steps.length - 1);
      head.style.transform = `translateX(${this.#plot.valToPos(at, "x")}px)`;
    };
    this.#plot.over.addEventListener("click", (event) => {
      const at = this.#plot.posToVal(event.offsetX, "x");
      this.#reel.seek((this.#reel.seconds * (at - 1)) / Math.max(1, steps.length - 1));
    });
  }

  #clear() {
    this.#reel?.stop();
    this.#plot?.destroy();
    this.#plot = this.#reel = null;
    this.stage.replaceChildren();
  }
}
