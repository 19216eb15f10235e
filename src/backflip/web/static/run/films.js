// Clips in lists: a still until somebody wants to see it move; decoded only while it does, for sheets are large.

import { loadClip } from "../clips.js";
import { isText, write } from "../texts.js";
import { View, turnBy } from "../view.js";
import { element } from "./elements.js";

const AT_ONCE = 3; // stills that are fetched and decoded at a time
const TAIL = 80; // letters of a prompt that a list shows: the text itself is what one looks for
const END_PAUSE = 0.35; // seconds on the last frame before the next round

const REST = 2; // as in player.js
const STRAIGHT = new View();

let busy = 0;
const waiting = [];

/** Run a task when there is room for it. */
async function inTurn(task) {
  if (busy >= AT_ONCE) await new Promise((go) => waiting.push(go));
  busy++;
  try {
    return await task();
  } finally {
    busy--;
    waiting.shift()?.();
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    target.film.still();
  }
}, { rootMargin: "200px" });

/** A clip on a canvas; or one that is read, which never moves. */
export class Film {
  #loading = null; // a promise of the frames
  #loaded = null;
  #picture = null; // which one is on the canvas
  #wanted = false; // somebody plays it

  /** clip: how its sheet lies, or null where its drawing is lost. */
  constructor(parent, clip, name) {
    this.clip = clip;
    this.drawn = false;
    this.figure = element("figure", "film", parent);
    this.bar = null;
    if (clip !== null && isText(clip)) {
      this.clip = null; // nothing to fetch or to play
      this.drawn = true;
      this.figure.classList.add("read");
      const whole = parent.closest("dialog") !== null;
      if (whole) this.figure.tabIndex = 0; // it may be longer than its box
      write(this.figure, whole || clip.prompt.length <= TAIL ? clip : { ...clip, prompt: `…${clip.prompt.slice(-TAIL)}` }, true);
      return;
    }
    this.canvas = element("canvas", "", this.figure);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", name);
    this.bar = element("i", "", element("span", "progress", this.figure));
    if (clip === null) {
      this.broken("not drawn");
      return;
    }
    this.figure.style.setProperty("--aspect", clip.frame_width / clip.frame_height);
    this.figure.classList.toggle("pixels", clip.mime === "image/png");
    this.figure.film = this;
    seen.observe(this.figure);
  }

  get turns() {
    return this.#loaded?.turns ?? false;
  }

  get seconds() {
    return this.clip === null ? 0 : this.clip.frames / this.clip.fps;
  }

  broken(why) {
    this.clip = null;
    this.figure.classList.add("broken");
    this.figure.dataset.why = why;
  }

  /** Show the frame in the middle, and keep nothing else. */
  async still() {
    await inTurn(async () => {
      if (this.#wanted || !(await this.#have()) || this.#wanted) return; // whoever plays it draws it
      this.draw(this.seconds / 2);
      this.free();
    });
  }

  /** Have the frames at hand until they are given back; whether that was possible. */
  async load() {
    this.#wanted = true;
    return this.#have();
  }

  async #have() {
    if (this.clip === null) return false;
    const loading = (this.#loading ??= loadClip(this.clip));
    try {
      const loaded = await loading;
      if (this.#loading === loading) this.#loaded = loaded; // else it was given back meanwhile
    } catch (error) {
      this.broken(error.message);
    }
    return this.#loaded !== null;
  }

  draw(seconds, view = STRAIGHT) {
    if (this.#loaded === null) return;
    const picture = this.#loaded.picture(seconds, view);
    if (picture === this.#picture) return;
    this.#picture = picture;
    this.#loaded.draw(this.canvas.getContext("2d", { alpha: false }), seconds, view);
    this.drawn = true;
  }

  free() {
    this.#loading?.then((loaded) => loaded.free(), () => {});
    this.#loading = this.#loaded = this.#picture = null;
    this.#wanted = false;
  }
}

/** Films on one clock, seen from one side. */
export class Reel {
  #wanted = false;
  #before = null;
  #drawAt = 0;

  constructor(films) {
    this.films = films;
    this.view = new View();
    this.time = 0;
    this.rate = 1;
    this.ontime = () => {};
  }

  get seconds() {
    return Math.max(0.001, ...this.films.map((film) => film.seconds));
  }

  get playing() {
    return this.#wanted;
  }

  /** Go on from where it stands. */
  async play() {
    if (this.#wanted) return;
    this.#wanted = true;
    await this.ready();
    if (this.#wanted) requestAnimationFrame((now) => this.#tick(now));
  }

  /** Have the frames at hand. */
  async ready() {
    await Promise.all(this.films.map((film) => film.load()));
  }

  pause() {
    this.#wanted = false;
    this.#before = null;
  }

  /** Stop, and give back the memory. */
  stop() {
    this.pause();
    for (const film of this.films) {
      film.free();
      if (!film.drawn) film.still();
    }
  }

  /** Show a moment. */
  seek(seconds) {
    this.time = Math.min(Math.max(0, seconds), this.seconds);
    this.#draw();
  }

  /** Let whoever drags over the films turn them, all together. */
  turnable() {
    for (const film of this.films.filter(({ turns }) => turns)) {
      film.figure.classList.add("turns");
      turnBy(film.canvas, this.view, () => film.turns, () => this.#draw());
    }
  }

  #tick(now) {
    if (!this.#wanted) return;
    if (this.#before !== null) this.time += (this.rate * Math.min(now - this.#before, 250)) / 1000;
    this.#before = now;
    if (this.time >= this.seconds + END_PAUSE) this.time = 0;
    if (now >= this.#drawAt) this.#draw();
    requestAnimationFrame((then) => this.#tick(then));
  }

  #draw() {
    const begun = performance.now();
    const share = Math.min(1, this.time / this.seconds);
    for (const film of this.films) {
      film.draw(this.time, this.view);
      if (film.bar !== null) film.bar.style.transform = `scaleX(${share})`;
    }
    this.ontime(Math.min(this.time, this.seconds));
    const now = performance.now();
    this.#drawAt = now + REST * (now - begun);
  }
}

/** Let films move while the pointer is over a node, or the focus in it. */
export function playOver(node, reel) {
  node.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") reel.play(); });
  node.addEventListener("pointerleave", () => reel.stop());
  node.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) reel.play(); });
  node.addEventListener("focusout", () => reel.stop());
}
