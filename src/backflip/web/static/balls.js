// A practice round for a run in which nobody has explained any answers yet: five pairs of a ball, drawn here.

import { Sheet } from "./clips.js";

const SIZE = 192;
const FRAMES = 36;
const COLUMNS = 6;
const FPS = 20;
const GROUND = 160;
const RING = 132; // where the ring lies, from the left
const TOP = 105; // how far a ball can jump, in pixels

export const QUESTION = "For practice: which ball jumps higher? If both jump as high: which lands in the ring?";

/** What a clip shows: how high the ball jumps (0 to 1), where it lands, how high a box it begins on, and a wall before it. */
const jump = (height, { to = 60, box = 0, wall = false } = {}) => ({ height, to, box, wall });

const LESSONS = [
  [jump(0.85), jump(0.3), "left", "The left ball jumps more than twice as high. Where it is clear, one look is enough."],
  [jump(0.6), jump(0.6), "equal", "Both clips are the same. Where neither is better, say that they are about the same: the agent learns from that too."],
  [jump(0.6, { to: 95 }), jump(0.6, { to: RING }), "right", "Both jump as high, so what the question asks next decides: the right ball lands in the ring."],
  [jump(0, { to: 95, box: 70 }), jump(0.35), "right", "The left ball is high up at the beginning, but it only falls; the right one jumps. Judge what happens in the clip, not where it begins."],
  [jump(0.8, { wall: true }), jump(0.5, { wall: true }), "incomparable", "Both jump behind a wall. What you cannot see you cannot compare: say that you can’t tell rather than guess."],
];

/** The round, each pair ready to be shown. */
export function ballLessons() {
  return Promise.all(
    LESSONS.map(async ([left, right, answer, why]) => ({ left: await film(left), right: await film(right), answer, why })),
  );
}

async function film(shot) {
  const sheet = document.createElement("canvas");
  sheet.width = COLUMNS * SIZE;
  sheet.height = Math.ceil(FRAMES / COLUMNS) * SIZE;
  const pen = sheet.getContext("2d");
  for (let frame = 0; frame < FRAMES; frame++) {
    pen.save();
    pen.translate((frame % COLUMNS) * SIZE, Math.floor(frame / COLUMNS) * SIZE);
    pen.beginPath();
    pen.rect(0, 0, SIZE, SIZE);
    pen.clip();
    draw(pen, shot, frame / (FRAMES - 1));
    pen.restore();
  }
  const bitmap = await createImageBitmap(sheet);
  return new Sheet({ frame_width: SIZE, frame_height: SIZE, columns: COLUMNS, frames: FRAMES, fps: FPS, mime: "image/webp" }, bitmap);
}

/** One frame; `time` goes from 0 to 1, and the ball is in the air in the middle half. */
function draw(pen, { height, to, box, wall }, time) {
  const air = Math.min(1, Math.max(0, (time - 0.2) / 0.55));
  const x = 36 + (to - 36) * air;
  const rise = height * TOP * 4 * air * (1 - air);
  const fall = box * (1 - air * air);
  const y = GROUND - 14 - rise - fall;
  block(pen, "#1c222e", 0, 0, SIZE, SIZE);
  block(pen, "#3a4558", 0, GROUND, SIZE, SIZE - GROUND);
  if (box) block(pen, "#56627a", 16, GROUND - box, 40, box);
  pen.lineWidth = 4;
  pen.strokeStyle = "#e2ac4d";
  oval(pen, RING, GROUND + 3, 24, 6);
  pen.stroke();
  pen.fillStyle = "#82a0ff";
  oval(pen, x, y, 14, 14);
  pen.fill();
  if (wall) block(pen, "#56627a", 8, 20, SIZE - 16, GROUND - 20);
}

function block(pen, colour, x, y, width, height) {
  pen.fillStyle = colour;
  pen.fillRect(x, y, width, height);
}

function oval(pen, x, y, wide, high) {
  pen.beginPath();
  pen.ellipse(x, y, wide, high, 0, 0, 7);
}
