// Labels: how many answers came, how fast, and the newest of them.

import { amount, choiceName, duration, isNumber, many } from "../words.js";
import { Bars } from "./bars.js";
import { percent } from "./curves.js";
import { Table, Tile, byId } from "./elements.js";
import { predicted } from "./said.js";
import { heard } from "./server.js";

const clock = (at) => new Date(1000 * at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const day = (at) => new Date(1000 * at).toLocaleDateString([], { day: "numeric", month: "short" });

export class Labels {
  #newest = -1;
  #pace = 60;
  #inTurn = false; // whether the run counts steps, and no time

  constructor(charts) {
    const tiles = byId("label-tiles");
    this.given = new Tile(tiles, "Answers");
    this.hour = new Tile(tiles, "Last hour");
    this.median = new Tile(tiles, "Median");
    this.ties = new Tile(tiles, "The same");
    this.unclear = new Tile(tiles, "Can’t tell");
    this.open = new Tile(tiles, "Open");
    this.aside = new Tile(tiles, "Left aside");
    const when = (start) => this.#inTurn ? `step ${amount(start)}` : (this.#pace >= 43200 ? day(start) : clock(start));
    this.paces = new Bars(charts, {
      title: "When answers came",
      hint: "Answers of all annotators, checks included.",
      empty: "Appears with the first answers whose date is known.",
      colour: "blue",
      from: when,
      to: (start) => when(start + this.#pace),
      name: (start, count) => `${when(start)}: ${count}`,
    });
    this.times = new Bars(charts, {
      title: "How long they took",
      hint: "Seconds from the first frame on the screen to the answer; the last bar holds all that took longer.",
      empty: "Appears with the first answers through the page.",
      colour: "violet",
      from: (start) => `${start} s`,
      to: (start) => `${start} s and more`,
      name: (start, count) => `from ${start} s: ${count}`,
    });
    this.table = new Table(byId("given"), [
      ["query", ({ query }) => String(query)],
      ["answer", ({ choice }) => choiceName(choice)],
      ["by", ({ teacher }) => teacher, "name"],
      ["after", ({ seconds }) => (isNumber(seconds) ? `${seconds.toFixed(1)} s` : "–")],
      ["r̂ had predicted", ({ predicted_left: left, choice }) => predicted(left, choice)],
      ["asked at step", ({ policy_steps: steps }) => amount(steps)],
    ]);
  }

  hear({ counts, given, settings, now }) {
    const share = (count) => (counts.labels ? percent(count / counts.labels) : "–");
    const lag = isNumber(now.ask.due) ? now.ask.due - counts.labels : null;
    const wanted = isNumber(settings.labels) ? `of ${amount(settings.labels)}` : "so far";
    this.given.tell(amount(counts.labels), lag > 0 ? `${wanted} · ${amount(lag)} behind` : wanted);
    this.ties.tell(share(counts.equal), many(counts.equal, "answer"));
    this.unclear.tell(share(counts.incomparable), many(counts.incomparable, "answer"));
    this.open.tell(amount(counts.open), "pairs wait for an answer");
    byId("given-empty").hidden = given.length > 0;
    byId("given").hidden = given.length === 0;
    this.table.show(given.map((one) => [`${one.query} ${one.teacher} ${one.choice} ${one.seconds}`, one]));
  }

  async refresh() {
    const news = await heard("/api/labels", { since: this.#newest });
    if (!news) return;
    this.#newest = news.newest;
    this.#pace = news.pace_seconds;
    this.#inTurn = news.in_turn;
    this.hour.tell(amount(news.last_hour), this.#inTurn ? "this run counts steps" : "answers");
    this.median.tell(isNumber(news.median_seconds) ? `${news.median_seconds.toFixed(1)} s` : "–", "an answer");
    const { skip = 0, flag = 0, undo = 0, exclude = 0 } = news.kinds;
    this.aside.tell(amount(skip + flag), `${skip} skipped, ${flag} flagged · ${undo + exclude} taken back`);
    this.paces.show(news.pace, `a bar is ${this.#inTurn ? `${amount(news.pace_seconds)} steps` : duration(news.pace_seconds)}`);
    this.times.show(news.seconds);
  }
}
