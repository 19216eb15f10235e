// What r̂ had predicted before somebody answered, in words.

import { isNumber } from "../words.js";
import { percent } from "./curves.js";

/** In a table: "left 93 %, a surprise". */
export function predicted(left, choice) {
  if (!isNumber(left)) return "–";
  const sure = Math.max(left, 1 - left);
  const side = left >= 0.5 ? "left" : "right";
  const surprise = (choice === "left" || choice === "right") && choice !== side && sure > 0.8 ? ", a surprise" : "";
  return `${side} ${percent(sure)}${surprise}`;
}

/** In a sentence. */
export function predictionOf(left) {
  if (!isNumber(left)) return "r̂ had predicted nothing";
  return `r̂ had predicted ${left >= 0.5 ? "left" : "right"} with ${percent(Math.max(left, 1 - left))}`;
}
