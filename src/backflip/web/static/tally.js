// How many answers there are, and how quickly they come: of this browser, today and lately.

import { amount, isNumber, setText } from "./words.js";

const RECENT = 50; // answers that the median and the pace are taken over
const ENOUGH = 5; // answers before a pace is worth telling
const AWAY_MS = 60 * 1000; // whoever gives no answer for so long has stopped answering

const $ = (id) => document.getElementById(id);

export class Tally {
  #shelf;
  #seconds = []; // per answer, where it could be measured
  #gaps = []; // ms from answer to answer
  #last = null;

  constructor(shelf) {
    this.#shelf = shelf;
  }

  /** Another answer, after so many seconds of looking (null where that could not be measured), now in ms. */
  answered(seconds, now) {
    if (seconds !== null) this.#seconds = [...this.#seconds, seconds].slice(-RECENT);
    if (this.#last !== null && now - this.#last < AWAY_MS) this.#gaps = [...this.#gaps, now - this.#last].slice(-RECENT);
    this.#last = now;
  }

  /** So many answers more, or fewer. */
  count(change) {
    const { day, answers } = this.#today();
    this.#shelf.write("today", { day, answers: Math.max(0, answers + change) });
  }

  /** `coming` is how many more the server will count once it has all. */
  draw({ you, counts, settings }, coming) {
    const own = isNumber(you.quota);
    const wanted = own ? you.quota : settings.labels;
    const given = Math.max(0, (own ? you.given : counts.labels) + coming);
    setText("total", amount(given));
    setText("budget", isNumber(wanted) ? ` of ${amount(wanted)}` : "");
    $("share").style.transform = `scaleX(${isNumber(wanted) ? Math.min(1, given / wanted) : 0})`;
    setText("today", String(this.#today().answers));
    setText("median", this.#seconds.length ? `${median(this.#seconds).toFixed(1)} s` : "–");
    const mean = this.#gaps.reduce((sum, gap) => sum + gap, 0) / this.#gaps.length;
    setText("pace", this.#gaps.length >= ENOUGH ? ` · ${amount(Math.round(3.6e6 / mean / 10) * 10)} an hour` : "");
  }

  #today() {
    const day = new Date().toLocaleDateString("sv");
    const kept = this.#shelf.read("today", null);
    return kept?.day === day ? kept : { day, answers: 0 };
  }
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
