// Four completions of one prompt: one key picks the best, and the next four are on the screen with it.

import { Refused, call, sleep } from "./calls.js";
import { Outbox, shelfOf, uuid } from "./queue.js";
import { measured, write } from "./texts.js";
import { amount, many, setText } from "./words.js";

const AGAIN_MS = 2000; // until the server is asked again where it had no four
const TOO_SOON_MS = 400; // a key that comes sooner was meant for the four before
const UNDOABLE = 10;

const $ = (id) => document.getElementById(id);

class Page {
  constructor(first) {
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

  /** Keep the screen and one place behind it filled, for ever. */
  async fill() {
    for (;;) {
      if (this.current === null || this.next === null) {
        try {
          const found = await call(`/api/four?besides=${this.besides.join(",")}`);
          if (this.lost) this.say("");
          this.lost = false;
          this.drawCounts(found.counts);
          setText("task", found.task);
          setText("question", found.question || "Which is the best?");
          if (found.passages.length > 0) {
            this.next = found;
            if (this.current === null) this.advance();
            continue;
          }
        } catch (error) {
          this.lost = true;
          this.say(error instanceof Refused ? error.message : "The server does not answer. What you pick is kept here until it does.");
        }
      }
      await Promise.race([sleep(this.next === null ? AGAIN_MS : 60_000), new Promise((resolve) => (this.wake = resolve))]);
    }
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
    this.outbox.put("/api/pick", { ...given, seconds: (performance.now() - this.shown) / 1000 }, 3);
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
    const last = this.history.pop();
    if (last === undefined) return;
    this.outbox.put("/api/unpick", { uuid: last.uuid, segments: last.segments, best: last.best }, -3);
    this.next = this.current ?? this.next;
    this.say("Taken back.");
    this.show(last.four);
  }

  advance() {
    const next = this.next;
    this.next = null;
    this.show(next);
    this.wake?.();
  }

  show(four) {
    this.current = four;
    this.shown = performance.now();
    $("four").hidden = four === null;
    $("waiting").hidden = four !== null;
    $("skip").disabled = four === null;
    $("undo").disabled = this.history.length === 0;
    $("prompt").hidden = four === null || four.prompt === "";
    if (four === null) return;
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

  drawCounts({ labels }) {
    setText("total", amount(labels));
  }

  drawSaved() {
    const waiting = this.outbox?.size ?? 0;
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
