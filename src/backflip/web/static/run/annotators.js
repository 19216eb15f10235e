// Annotators: who answers, how fast, how reliably; admins invite them and write what they read.

import { amount, duration, isNumber } from "../words.js";
import { percent } from "./curves.js";
import { Table, button, element, tell } from "./elements.js";
import { Office } from "./office.js";
import { heard } from "./server.js";

const SPLIT = ["left", "equal", "right", "incomparable"];
const AGAIN_MS = 1500; // how often to ask while error rates are still to come

export class Annotators {
  #newest = -1;
  #now = 0;
  #inTurn = false; // whether the run counts steps, and no time
  #assumed = 0.1; // the error rate in the likelihood

  /** onpairs(name): somebody wants to see an annotator's answers. */
  constructor(panel, onpairs) {
    const card = element("article", "card table-card", panel);
    const head = element("header", "", card);
    element("h2", "", head, "Annotators");
    this.alpha = element("span", "hint", head);
    this.empty = element("p", "empty", card, "Nobody has answered yet.");
    const scroller = element("div", "scroller", card);
    scroller.tabIndex = 0;
    scroller.setAttribute("role", "region");
    scroller.setAttribute("aria-label", "Table of annotators");
    this.table = new Table(scroller, this.#columns(onpairs), "people");
    this.notes = element("p", "hint", card);
    this.office = new Office(panel, () => this.refresh(true));
  }

  #columns(onpairs) {
    const of = (fill) => ({ summary }) => (summary === null ? "" : fill(summary));
    return [
      ["name", ({ name, summary }, cell) => nameCell(cell, name, summary === null ? null : onpairs), "name"],
      ["role", ({ account }) => roleOf(account)],
      ["answers", ({ summary, account }) => `${amount(summary?.answers ?? 0)}${account?.quota ? ` of ${amount(account.quota)}` : ""}`, "number"],
      ["left / same / right / can’t tell", ({ summary }, cell) => splitCell(cell, summary)],
      ["median", of((row) => (isNumber(row.seconds) ? `${row.seconds.toFixed(1)} s` : "–")), "number"],
      ["side bias", ({ summary }, cell) => partCell(cell, summary?.side_bias), "number"],
      ["with self", ({ summary }, cell) => partCell(cell, summary?.consistency), "number"],
      ["with others", ({ summary }, cell) => partCell(cell, summary?.overlap), "number"],
      ["gold", ({ summary }, cell) => partCell(cell, summary?.gold), "number"],
      ["with r̂", ({ summary }, cell) => partCell(cell, summary?.reward), "number"],
      ["error rate", ({ summary }, cell) => rateCell(cell, summary?.error_rate, this.#assumed), "number"],
      ["last seen", of((row) => (isNumber(row.last_seen) ? this.#seen(row.last_seen) : "–"))],
      ["access", ({ name, account }, cell) => this.office.revoking(cell, name, account)],
    ];
  }

  #seen(at) {
    if (this.#inTurn) return `step ${amount(at)}`;
    const seconds = this.#now - at;
    return seconds < 60 ? "now" : `${duration(seconds)} ago`;
  }

  hear({ role, now }) {
    this.#now = now.time;
    this.office.allow(role === "admin");
  }

  /** again: also where no answer has come, for accounts may have. */
  async refresh(again = false) {
    const news = await heard("/api/annotators", { since: again === true ? -1 : this.#newest });
    if (!news) return;
    this.#newest = news.estimating ? -1 : news.newest;
    this.#assumed = news.assumed;
    this.#inTurn = news.in_turn;
    this.empty.hidden = news.annotators.length > 0;
    this.table.table.hidden = news.annotators.length === 0;
    this.table.show(news.annotators.map((person) => [person.name, person]));
    tell(this.alpha, isNumber(news.alpha) ? `Krippendorff’s α ${news.alpha.toFixed(2)}, over all who answered the same pairs` : "");
    tell(this.notes, [
      "With self: their own pairs again, sides exchanged. With others: pairs that several answered. Gold: pairs whose answer is known. With r̂: what it had predicted.",
      `Side bias: of those that chose a side, the left. Error rate: share of answers at random, with its 95 % interval; r̂ assumes ${percent(news.assumed)}.`,
      news.estimating ? "Error rates from the newest answers are still to come." : "",
    ].join(" ").trim());
    this.office.show(news.instruction, news.annotators);
    if (news.estimating) setTimeout(() => this.refresh(), AGAIN_MS);
  }
}

function nameCell(cell, name, onpairs) {
  if (cell.firstChild !== null) return undefined;
  if (onpairs === null) return name;
  button(cell, name, () => onpairs(name), "plain").title = "Show their answers";
  return undefined;
}

function roleOf(account) {
  if (account === null) return "–";
  return account.revoked_at === null ? account.role : `${account.role}, revoked`;
}

/** "50 / 4 / 41 / 5 %", and a bar of these parts. */
function splitCell(cell, summary) {
  if (summary === null) return "";
  if (cell.firstChild === null) {
    element("span", "", cell);
    const bar = element("span", "split", cell);
    for (const kind of SPLIT) element("i", "", bar).dataset.kind = kind;
  }
  const [words, bar] = cell.children;
  tell(words, `${SPLIT.map((kind) => Math.round(100 * summary[kind])).join(" / ")} %`);
  SPLIT.forEach((kind, i) => { bar.children[i].style.flexGrow = summary[kind]; });
  return undefined;
}

/** "0.93 of 15", and its interval as a line. */
function partCell(cell, part) {
  if (!part) return "–";
  return interval(cell, percent(part.value), ` of ${part.of}`, part, null);
}

function rateCell(cell, rate, assumed) {
  if (!rate) return "–";
  const known = isNumber(rate.low) && isNumber(rate.high);
  return interval(cell, percent(rate.value), known ? ` ${Math.round(100 * rate.low)}–${Math.round(100 * rate.high)}` : "", known ? rate : null, assumed);
}

function interval(cell, value, more, range, mark) {
  if (!cell.querySelector("b")) {
    cell.replaceChildren();
    element("b", "", cell);
    element("small", "", cell);
    element("i", "", element("span", "range-bar", cell));
  }
  const [words, small, bar] = cell.children;
  tell(words, value);
  tell(small, more);
  bar.hidden = range === null;
  if (range !== null) {
    bar.firstChild.style.left = `${100 * range.low}%`;
    bar.firstChild.style.width = `${100 * Math.max(0.02, range.high - range.low)}%`;
    cell.title = `95 %: ${percent(range.low)} to ${percent(range.high)}${mark === null ? "" : `; r̂ assumes ${percent(mark)}`}`;
  }
  return undefined;
}
