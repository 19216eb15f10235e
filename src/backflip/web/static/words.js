// Numbers and times as people read them, for both pages.

const NAMES = { left: "left", right: "right", equal: "the same", incomparable: "can’t tell" };

const STACKED = { left: "upper", right: "lower" };
const narrow = matchMedia("(max-width: 640px)"); // where style.css puts one clip above the other

/** A choice in words. */
export const choiceName = (choice) => NAMES[choice] ?? choice;

/** A choice in words, as the person sees the clips now. */
export const choiceSeen = (choice) => (narrow.matches ? STACKED[choice] : undefined) ?? choiceName(choice);

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** 1234567 -> "1.23 M", with so many significant digits. */
export function amount(value, digits = 3) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-3) return value.toExponential(1).replace("-", "−");
  const [scale, unit] = size >= 999.5e6 ? [1e9, " G"] : size >= 999.5e3 ? [1e6, " M"] : size >= 9999.5 ? [1e3, " k"] : [1, ""];
  const scaled = value / scale;
  const short = Number.isInteger(scaled) && unit === "" ? String(scaled) : String(Number(scaled.toPrecision(digits)));
  return short.replace("-", "−") + unit;
}

/** Seconds -> "2 h 05 min". */
export function duration(seconds) {
  if (!isNumber(seconds) || seconds < 0) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.round(hours / 24)} days`;
}

/** "1 answer", "2 answers". */
export const many = (count, noun) => `${amount(count)} ${noun}${count === 1 ? "" : "s"}`;

export const QUIET_SECONDS = 60; // after so long without news a part is said to be quiet
export const OVER = ["finished", "stopped", "failed"];

/** Put words into an element, unless they are there already: readers that speak would say them again. */
export function setText(id, text) {
  const element = document.getElementById(id);
  if (element.textContent !== text) element.textContent = text;
}
