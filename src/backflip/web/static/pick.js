// Four completions of one prompt: one key picks the best, and the next four are on the screen with it.

import { Refused, call, callAs, sleep } from "./calls.js";
import { enoughWords, overWords } from "./notices.js";
import { Outbox, shelfOf, uuid } from "./queue.js";
import { measured, write } from "./texts.js";
import { OVER, amount, many, setText } from "./words.js";

const AGAIN_MS = 2000; // until the server is asked again where it had no four
const RENEW_MS = 20_000; // how often to hear news while somebody reads
const TOO_SOON_MS = 400; // a key that comes sooner was meant for the four before
const UNDOABLE = 10;
const WORTH = 3; // answers that a pick is

const $ = (id) => document.getElementById(id);

class Page {
  constructor(first) {
    this.news = first;
    callAs(first.you.name);
    this.current = null; // the four on the screen
    this.next = null; // those after them
    this.skipped = new Set(); // a segment of each four
    this.history = []; // {uuid, best, four}, newest last
    this.shown = 0;
    this.lost = false;
    this.outbox = new Outbox(shelfOf(first), {
      onchange: () => this.drawSaved(),
      onsaved: (reply) => this.drawCounts(reply.counts),
      onrefused: (_entry, sentence) => this.say(`A pick was refused: ${sentence}`),
    });
    addEventListener("keydown", (event) => this.press(event));
    $("undo").addEventListener("click", () => this.undo());
    $("skip").addEventListener("click", () => this.skip());
    this.fill();
  }

  /** A segment of each four that shall not be brought again. */
  get besides() {
    const held = [this.current, this.next, ...this.history.map(({ four }) => four)].filter(Boolean);
    const shown = held.map((four) => four.passages[0].segment);
    return [...new Set([...this.skipped, ...this.outbox.segments, ...shown].reverse())].slice(0, 200); // those first that are in sight
  }

  get over() {
    return OVER.includes(this.news.now.run.state);
  }

  /** Answers on their way, and those that the four on the screen will be. */
  get coming() {
    return Math.max(0, this.outbox.answers + (this.current === null ? 0 : WORTH));
  }

  /** Keep the screen and one place behind it filled, for ever. */
  async fill() {
    for (;;) {
      const wanted = this.next === null && !this.over;
      try {
        const found = await call(`/api/four?count=${Number(wanted)}&coming=${this.coming}&besides=${this.besides.join(",")}`);
        if (this.lost) this.say("");
        this.lost = false;
        if (found.passages.length > 0) this.next ??= found; // an undo may have been quicker
        this.hear(found);
        if (found.passages.length > 0) continue;
      } catch (error) {
        this.lost = true;
        this.say(error instanceof Refused ? error.message : "The server does not answer. What you pick is kept here until it does.");
      }
      await Promise.race([sleep(this.next === null || this.over ? AGAIN_MS : RENEW_MS), new Promise((resolve) => (this.wake = resolve))]);
    }
  }

  /** What the server says now: the four on the screen wait if the run is over, but for what was taken back. */
  hear(news) {
    this.news = news;
    setText("task", news.settings.task);
    setText("question", news.settings.question || "Which is the best?");
    this.drawCounts(news.counts);
    if (this.over && this.current !== null && !this.current.again) {
      this.next = this.current;
      this.show(null);
    } else if (this.current === null) this.advance();
    else this.drawTools();
  }

  press(event) {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (["1", "2", "3", "4"].includes(event.key)) this.pick(Number(event.key) - 1);
    else if (event.key.toLowerCase() === "u") this.undo(); // Caps Lock or not
    else if (event.key.toLowerCase() === "s") this.skip();
    else return;
    event.preventDefault();
  }

  get tooSoon() {
    return this.current === null || performance.now() - this.shown < TOO_SOON_MS;
  }

  pick(place) {
    if (this.tooSoon) return;
    const segments = this.current.passages.map(({ segment }) => segment);
    const given = { uuid: uuid(), segments, best: segments[place] };
    this.history = [...this.history, { ...given, four: this.current }].slice(-UNDOABLE);
    this.outbox.put("/api/pick", { ...given, seconds: (performance.now() - this.shown) / 1000 }, WORTH);
    this.say(`You picked the ${["first", "second", "third", "fourth"][place]}.`);
    this.advance();
  }

  skip() {
    if (this.tooSoon) return;
    this.skipped.add(this.current.passages[0].segment);
    this.say("Skipped.");
    this.advance();
  }

  undo() {
    if (this.over || this.history.length === 0) return; // a run that is over asks nothing again
    const last = this.history.pop();
    this.outbox.put("/api/unpick", { uuid: last.uuid, segments: last.segments, best: last.best }, -WORTH);
    this.next = this.current ?? this.next;
    this.say("Taken back.");
    this.show({ ...last.four, again: true });
  }

  advance() {
    const next = this.over && !this.next?.again ? null : this.next;
    if (next !== null) this.next = null;
    this.show(next);
    this.wake?.();
  }

  show(four) {
    this.current = four;
    this.shown = performance.now();
    $("four").hidden = four === null;
    $("waiting").hidden = four !== null;
    this.drawTools();
    $("prompt").hidden = four === null || four.prompt === "";
    if (four === null) {
      this.drawWaiting();
      return;
    }
    write($("prompt"), { prompt: four.prompt, completion: "" }, true);
    $("prompt").querySelector(".none")?.remove();
    $("four").replaceChildren(...four.passages.map((passage, place) => this.card(passage, place)));
  }

  card({ completion }, place) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const key = document.createElement("kbd");
    key.textContent = String(place + 1);
    const passage = document.createElement("span");
    passage.className = "passage";
    write(passage, { prompt: "", completion }, false);
    const length = document.createElement("span");
    length.className = "length";
    length.textContent = many(measured({ completion }).words, "word");
    button.append(key, passage, length);
    button.addEventListener("click", () => this.pick(place));
    item.append(button);
    return item;
  }

  say(sentence) {
    setText("said", sentence);
  }

  drawTools() {
    $("skip").disabled = this.current === null;
    $("undo").disabled = this.history.length === 0 || this.over;
  }

  drawWaiting() {
    const enough = this.over ? overWords(this.news, this.outbox.size) : enoughWords(this.news);
    const [title, text] = enough ?? ["Looking for four completions of one prompt…", ""];
    setText("waiting-title", title);
    setText("waiting-text", text);
  }

  drawCounts({ labels }) {
    setText("total", amount(labels));
  }

  drawSaved() {
    if (!this.outbox) return; // it speaks while it is being made
    if (this.over) this.drawWaiting();
    const waiting = this.outbox.size;
    setText("saved", waiting === 0 ? "all saved" : `${many(waiting, "pick")} on the way`);
    $("saved").dataset.kind = waiting === 0 ? "ok" : "busy";
  }
}

/** The page needs to know the run and the person before it may send what an earlier visit left behind. */
async function start() {
  for (;;) {
    try {
      return new Page(await call("/api/four?count=0"));
    } catch (error) {
      if (error instanceof Refused) setText("said", error.message);
      await sleep(1000);
    }
  }
}

start();
