// Clips of poses: where the parts of a robot are in each frame; what lies between two frames is reckoned.

import { BrokenClip, fetched, fit, loadDrawn } from "./clips.js";
import { Drawing } from "./drawing.js";

const PART = 7; // numbers of a part: a place, and a rotation as w, x, y, z
const FOLLOWED = 2; // numbers before them: how far the camera has gone with the robot
const SHAPES = ["sphere", "capsule", "ellipsoid", "cylinder", "box"];
const IDLE_MS = 300; // after which a first frame is drawn ahead, however busy the page is

const geometries = new Map(); // address -> a promise

/** A clip of poses; null where this browser cannot draw. */
export async function loadPoses(about) {
  const drawing = Drawing.ofPage();
  if (drawing === null) return null;
  const [poses, geometry] = await Promise.all([numbers(about), geometryOf(about.geometry_url)]);
  const size = FOLLOWED + PART * geometry.parts.length;
  if (poses.length !== about.frames * size || !poses.every(Number.isFinite)) throw new BrokenClip("the clip is damaged");
  return new Poses(about, poses, geometry, drawing);
}

async function numbers(about) {
  const bytes = await (await fetched(about.url)).arrayBuffer();
  if (bytes.byteLength % 4) throw new BrokenClip("the clip is damaged");
  return new Float32Array(bytes);
}

function geometryOf(address) {
  if (!geometries.has(address)) {
    const coming = fetched(address).then((response) => response.text()).then(checked);
    geometries.set(address, coming);
    coming.catch(() => geometries.delete(address)); // the next clip asks again
  }
  return geometries.get(address);
}

/** A geometry that can be drawn. */
function checked(text) {
  const are = (list, count) => Array.isArray(list) && list.length === count && list.every(Number.isFinite);
  try {
    const { parts, camera, floor, head, sky, horizon, light } = JSON.parse(text);
    const whole =
      parts.every(({ shape, size, colour, head: from }) => SHAPES.includes(shape) && are(size, 3) && are(colour, 3) && (from === null || Number.isFinite(from))) &&
      [head, sky, horizon, light, floor.colour].every((list) => are(list, 3)) &&
      are([camera.distance, camera.height, camera.elevation, camera.field_of_view], 4) &&
      are([floor.height, floor.tile, floor.line_tiles, floor.line_thickness, floor.light, floor.dark, floor.line, floor.shadow], 8);
    if (whole) return { parts, camera, floor, head, sky, horizon, light };
  } catch {} // no JSON, or something is missing in it
  throw new BrokenClip("the clip’s geometry is damaged");
}

/** When the page has nothing better to do: a first frame that is drawn ahead must not keep a key waiting. */
const idle = () =>
  new Promise((resolve) => {
    if (window.requestIdleCallback) requestIdleCallback(resolve, { timeout: IDLE_MS });
    else setTimeout(resolve, 0);
  });

function copy(canvas, context) {
  fit(context.canvas, canvas.width, canvas.height);
  context.drawImage(canvas, 0, 0);
}

class Poses {
  turns = true;
  pixelated = false;
  #poses;
  #geometry;
  #drawing;
  #kept = new Map(); // frame -> its picture from the first side: the first frame, or all where drawing costs much
  #sheet = null; // in place of all that, should the browser lose what it draws with
  #coming = null;

  constructor(about, poses, geometry, drawing) {
    Object.assign(this, { about, frames: about.frames, fps: about.fps });
    this.#poses = poses;
    this.#geometry = geometry;
    this.#drawing = drawing;
  }

  /** Draw the first frame ahead. */
  async prepare() {
    await idle();
    const first = document.createElement("canvas");
    if (this.#paint(first.getContext("2d", { alpha: false }), 0, 0, 0)) this.#kept.set(0, first);
  }

  /** Between which frames, and how far: whole numbers are what was recorded, and all there is where drawing costs much. */
  #at(seconds) {
    const at = Math.min(this.frames - 1, Math.max(0, seconds * this.fps));
    const near = Math.round(at);
    if (Math.abs(at - near) < 1e-4) return near;
    return this.#drawing.frugal ? Math.floor(at) : at;
  }

  picture(seconds, view) {
    if (this.#sheet) return this.#sheet.picture(seconds);
    return `${this.#at(seconds)} ${view.number} ${this.#drawing.number}`;
  }

  draw(context, seconds, view) {
    if (this.#sheet) {
      this.#sheet.draw(context, seconds);
      this.turns = false;
      return;
    }
    const at = this.#at(seconds);
    const kept = view.straight && this.#kept.get(at);
    if (kept) copy(kept, context);
    else if (this.#paint(context, at, view.turn, view.tilt)) {
      if (this.#drawing.frugal && view.straight) this.#keep(at, context.canvas);
    } else if (this.#drawing.gone) {
      this.#coming ??= loadDrawn(this.about).then((sheet) => (this.#sheet = sheet), () => setTimeout(() => (this.#coming = null), 5000));
    }
  }

  /** Draw; false where that cannot be just now. */
  #paint(context, at, turn, tilt) {
    const done = this.#drawing.draw(this.#geometry, this.#between(at), turn, tilt);
    if (!done) return false;
    copy(this.#drawing.canvas, context);
    return true;
  }

  #keep(frame, canvas) {
    const kept = document.createElement("canvas");
    copy(canvas, kept.getContext("2d", { alpha: false }));
    this.#kept.set(frame, kept);
  }

  /** The numbers of a moment: places go straight from one frame to the next, rotations the shorter way. */
  #between(at) {
    const size = this.#poses.length / this.frames;
    const frame = Math.floor(at);
    const from = this.#poses.subarray(frame * size, (frame + 1) * size);
    if (at === frame) return from;
    const share = at - frame;
    const to = this.#poses.subarray((frame + 1) * size, (frame + 2) * size);
    const found = Float64Array.from(from, (value, i) => value + share * (to[i] - value));
    for (let i = FOLLOWED + 3; i < size; i += PART) {
      let cosine = 0;
      for (let j = i; j < i + 4; j++) cosine += from[j] * to[j];
      const sign = cosine < 0 ? -1 : 1; // q and -q are the same rotation
      for (let j = i; j < i + 4; j++) found[j] = (1 - share) * from[j] + share * sign * to[j];
    }
    return found;
  }

  free() {
    for (const canvas of this.#kept.values()) canvas.width = canvas.height = 0; // else they live until somebody sweeps
    this.#kept.clear();
    this.#coming?.then(() => this.#sheet?.free());
  }
}
