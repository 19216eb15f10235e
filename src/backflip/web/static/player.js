// Two clips on two canvases, driven by one clock: they cannot drift apart; or two texts in their place.

import { Texts, isText } from "./texts.js";
import { View, turnBy } from "./view.js";

const END_PAUSE_MS = 350; // both rest on their last frame before the next round
const REST = 2; // so many times as long as drawing took there is none: keys must not wait for it

export class Player {
  #sides; // [{figure, context, bar, clip, picture}]
  #time = 0; // where in the round both are, ms
  #before = null; // the clock at the last tick
  #rounds = 0;
  #painted = null; // when the pair's first frame was on the screen
  #shows = 0;
  #drawAt = 0; // not before that
  #texts;

  constructor(figures, prompt) {
    this.#texts = new Texts(figures, prompt);
    this.paused = false;
    this.held = false; // by the page, whatever the person wants
    this.speed = 1; // of what happened
    this.view = new View(); // of both
    this.#sides = figures.map((figure) => {
      const canvas = figure.querySelector("canvas");
      turnBy(canvas, this.view, () => this.turns);
      return { figure, context: canvas.getContext("2d", { alpha: false }), bar: figure.querySelector(".progress i"), clip: null, picture: null };
    });
    requestAnimationFrame((now) => this.#tick(now));
  }

  /** Show two clips from their beginning, drawn before this returns; resolves when they are on the screen. */
  show(clips) {
    this.#time = 0;
    this.#before = null;
    this.#rounds = 0;
    this.#painted = null;
    const show = ++this.#shows;
    if (clips.every(isText)) this.#read(clips);
    else this.#film(clips);
    return new Promise((resolve) => {
      requestAnimationFrame(() => {
        const channel = new MessageChannel(); // its message comes after the frame was handed to the screen
        channel.port1.onmessage = () => {
          if (show === this.#shows) this.#painted = performance.now();
          resolve(performance.now());
        };
        channel.port2.postMessage(0);
      });
    });
  }

  #read(texts) {
    for (const side of this.#sides) side.clip = null; // nothing moves
    this.#texts.show(texts);
  }

  #film(clips) {
    this.#texts.clear();
    this.view.reset(); // or what was drawn ahead would not be what is wanted
    this.#sides.forEach((side, i) => {
      const clip = clips[i];
      side.clip = clip;
      side.picture = null;
      side.figure.style.setProperty("--aspect", clip.about.frame_width / clip.about.frame_height);
      side.figure.classList.toggle("pixels", clip.pixelated);
      side.figure.classList.toggle("turns", clip.turns);
    });
    this.#draw();
  }

  /** Show nothing. */
  clear() {
    this.#shows++;
    this.#painted = null;
    for (const side of this.#sides) side.clip = null;
    this.#texts.clear();
  }

  /** Whether there is anything that moves. */
  get moves() {
    return this.#sides[0].clip !== null;
  }

  /** Whether both can be seen from another side. */
  get turns() {
    return this.moves && this.#sides.every(({ clip }) => clip.turns);
  }

  /** Show the same pair from its beginning again. */
  restart() {
    this.#time = 0;
    if (this.#sides[0].clip) this.#draw();
  }

  /** Go so many frames of the quicker clip on, or back; after the last comes the first. */
  step(frames) {
    if (!this.#sides[0].clip) return;
    const frame = 1000 / Math.max(...this.#sides.map((side) => side.clip.fps));
    const count = Math.max(1, Math.round(this.#length() / frame));
    const now = Math.min(count - 1, Math.floor(this.#time / frame + 1e-6));
    this.#time = ((((now + frames) % count) + count) % count) * frame;
    this.#draw();
  }

  /** When the pair's first frame was on the screen; null before. */
  get painted() {
    return this.#painted;
  }

  /** How often the pair has run to its end. */
  get loops() {
    return this.#rounds + Math.min(1, this.#time / this.#length());
  }

  #length() {
    return Math.max(1, ...this.#sides.filter((s) => s.clip).map((s) => (1000 * s.clip.frames) / s.clip.fps));
  }

  #tick(now) {
    if (this.#sides[0].clip) {
      if (!this.paused && !this.held && this.#before !== null) this.#time += this.speed * Math.min(now - this.#before, 250); // a hidden page stood still
      this.#before = now;
      const length = this.#length();
      if (this.#time >= length + END_PAUSE_MS) {
        this.#time = (this.#time - length - END_PAUSE_MS) % length;
        this.#rounds++;
      }
      if (now >= this.#drawAt) this.#draw();
    }
    requestAnimationFrame((then) => this.#tick(then));
  }

  #draw() {
    const begun = performance.now();
    const length = this.#length();
    const seconds = this.#time / 1000;
    for (const side of this.#sides) {
      const picture = side.clip.picture(seconds, this.view);
      if (picture !== side.picture) {
        side.picture = picture;
        side.clip.draw(side.context, seconds, this.view);
      }
      side.bar.style.transform = `scaleX(${Math.min(1, this.#time / length)})`;
    }
    const now = performance.now();
    this.#drawAt = now + REST * (now - begun);
  }
}
