// Clips as they come, each ready to be drawn: a sheet with all its frames, poses that are drawn here, or a text.
//
// What moves has: about (as the server described it), frames, fps, turns (whether its view can be turned),
// picture(seconds, view), whose equal values mean equal pictures, draw(context, seconds, view), and free(); poses also
// prepare(), which makes that the first frame is drawn as quickly as that of a sheet.

import { call, sleep } from "./calls.js";
import { isText, measured } from "./texts.js";

const POSES = "application/x-backflip-poses";
const PATIENCE_MS = 12000; // for a sheet that is being drawn; the pair is lent to this page for longer
const LOOK_MS = 600;

export class BrokenClip extends Error {}

/** The clip has to be drawn for this browser first; it may be asked for again. */
export class NotYet extends Error {}

/** Fetch and decode a clip; a text came whole. Throws BrokenClip if what came cannot be shown; any other error means "try again". */
export async function loadClip(about) {
  if (isText(about)) return measured(about);
  if (about.mime !== POSES) return loadSheet(about, about);
  const { loadPoses } = await import("./poses.js"); // a run of texts or of sheets does without it
  return (await loadPoses(about)) ?? loadDrawn(about);
}

/** What lies at an address. */
export async function fetched(address) {
  const response = await fetch(address);
  if (response.status === 404) throw new BrokenClip("the clip is missing");
  if (!response.ok) throw new Error(`the clip could not be fetched (${response.status})`);
  return response;
}

/** The sheet of a clip of poses, drawn by the run for a browser that cannot. */
export async function loadDrawn(about) {
  const until = performance.now() + PATIENCE_MS;
  let { sheet } = await call(about.sheet_url);
  if (sheet === null) ({ sheet } = await call("/api/sheets", { clip: about.url.split("/").at(-1) }));
  while (sheet === null) {
    if (performance.now() > until) throw new NotYet("being drawn for this browser");
    await sleep(LOOK_MS);
    ({ sheet } = await call(about.sheet_url));
  }
  return loadSheet(sheet, about);
}

async function loadSheet(sheet, about) {
  const blob = await (await fetched(sheet.url)).blob();
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
  return new Sheet(sheet, bitmap, about);
}

/** All frames in one picture, from left to right, then down. */
export class Sheet {
  turns = false;
  #sheet;
  #bitmap;

  constructor(sheet, bitmap, about = sheet) {
    this.about = about;
    this.frames = sheet.frames;
    this.fps = sheet.fps;
    this.pixelated = sheet.mime === "image/png"; // what an environment drew, pixel by pixel
    this.#sheet = sheet;
    this.#bitmap = bitmap;
  }

  picture(seconds) {
    return Math.min(this.frames - 1, Math.floor(seconds * this.fps + 1e-6));
  }

  draw(context, seconds) {
    const { columns, frame_width: width, frame_height: height } = this.#sheet;
    const frame = this.picture(seconds);
    fit(context.canvas, width, height);
    context.drawImage(this.#bitmap, (frame % columns) * width, Math.floor(frame / columns) * height, width, height, 0, 0, width, height);
  }

  free() {
    this.#bitmap.close();
  }
}

/** Give a canvas as many pixels as a picture has; it forgets its own only if they were others. */
export function fit(canvas, width, height) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}
