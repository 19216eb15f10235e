// Two clips on two canvases, driven by one clock: they cannot drift apart; or two texts in their place.

import { Texts, isText, measured } from "./texts.js";

const END_PAUSE_MS = 350; // both rest on their last frame before the next round

/** Fetch and decode a clip; a text came whole. Throws BrokenClip if what came cannot be shown; any other error means "try again". */
export async function loadClip(sheet) {
  if (isText(sheet)) return measured(sheet);
  const response = await fetch(sheet.url);
  if (response.status === 404) throw new BrokenClip("the clip is missing");
  if (!response.ok) throw new Error(`the clip could not be fetched (${response.status})`);
  const blob = await response.blob();
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new BrokenClip("the clip is damaged");
  }
  const columns = Math.min(sheet.columns, sheet.frames);
  const rows = Math.ceil(sheet.frames / sheet.columns);
  if (bitmap.width < columns * sheet.frame_width || bitmap.height < rows * sheet.frame_height) {
    bitmap.close();
    throw new BrokenClip("the clip is smaller than it says");
  }
  return { ...sheet, bitmap };
}

export class BrokenClip extends Error {}

export class Player {
  #sides; // [{canvas, context, bar, clip, frame}]
  #time = 0; // where in the round both are, ms
  #before = null; // the clock at the last tick
  #rounds = 0;
  #painted = null; // when the pair's first frame was on the screen
  #shows = 0;
  #texts;

  constructor(figures, prompt) {
    this.#texts = new Texts(figures, prompt);
    this.paused = false;
    this.held = false; // by the page, whatever the person wants
    this.speed = 1; // of what happened
    this.#sides = figures.map((figure) => {
      const canvas = figure.querySelector("canvas");
      return { figure, canvas, context: canvas.getContext("2d", { alpha: false }), bar: figure.querySelector(".progress i"), clip: null, frame: -1 };
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
    this.#sides.forEach((side, i) => {
      const clip = clips[i];
      side.clip = clip;
      side.frame = -1;
      if (side.canvas.width !== clip.frame_width) side.canvas.width = clip.frame_width;
      if (side.canvas.height !== clip.frame_height) side.canvas.height = clip.frame_height;
      side.figure.style.setProperty("--aspect", clip.frame_width / clip.frame_height);
      side.figure.classList.toggle("pixels", clip.mime === "image/png");
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
      this.#draw();
    }
    requestAnimationFrame((then) => this.#tick(then));
  }

  #draw() {
    const length = this.#length();
    for (const side of this.#sides) {
      const { clip, context } = side;
      const frame = Math.min(clip.frames - 1, Math.floor((this.#time / 1000) * clip.fps + 1e-6));
      if (frame !== side.frame) {
        side.frame = frame;
        const x = (frame % clip.columns) * clip.frame_width;
        const y = Math.floor(frame / clip.columns) * clip.frame_height;
        context.drawImage(clip.bitmap, x, y, clip.frame_width, clip.frame_height, 0, 0, clip.frame_width, clip.frame_height);
      }
      side.bar.style.transform = `scaleX(${Math.min(1, this.#time / length)})`;
    }
  }
}
