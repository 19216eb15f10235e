// The practice round: a few pairs whose answer is known, with an explanation each; nothing of it is part of D.

import * as balls from "./balls.js";
import { call } from "./calls.js";
import { decode, release, uuid } from "./queue.js";
import * as sentences from "./sentences.js";
import { choiceSeen } from "./words.js";

const $ = (id) => document.getElementById(id);

export class Round {
  #lessons = [];
  #at = -1;
  #judged = false;
  #over = false;

  /** show(lesson) puts a pair on the screen, send(body) an answer on its way, end(whole) gives the page back. */
  constructor({ show, send, end }) {
    Object.assign(this, { show, send, end });
    $("practice-next").onclick = () => this.#next();
    $("practice-leave").onclick = () => this.leave();
  }

  /** Fetch what the run's researcher has explained, else a round of our own of that kind, and show the first pair. */
  async begin(kind) {
    $("practice-title").textContent = "Practice";
    $("practice-text").textContent = "One moment…";
    $("practice-next").hidden = true;
    let lessons = await explained();
    this.question = null; // that of the run
    if (lessons.length === 0) [this.question, lessons] = kind === "texts" ? [sentences.QUESTION, sentences.sentenceLessons()] : [balls.QUESTION, await balls.ballLessons()];
    if (this.#over) {
      lessons.forEach(release);
      return;
    }
    this.#lessons = lessons;
    this.#next();
  }

  /** Say whether a choice is the right one, and why; facts are about how the pair was looked at. */
  answer(choice, facts) {
    if (this.#judged || this.#at < 0) return;
    const { showing, answer, why } = this.#lessons[this.#at];
    if (showing !== undefined) this.send({ uuid: uuid(), showing, choice, ...facts });
    this.#judged = true;
    const verdict = choice === answer ? "Yes" : `Here it is “${choiceSeen(answer)}”`;
    this.#draw(`${verdict}. ${why}`, choice === answer ? "right" : "wrong");
    for (const button of document.querySelectorAll("[data-choice]")) button.classList.toggle("answer", button.dataset.choice === answer);
    $("practice-next").focus();
  }

  /** End it, now. */
  leave(whole = false) {
    this.#over = true;
    document.querySelector("[data-choice].answer")?.classList.remove("answer");
    this.#lessons.forEach(release);
    this.#lessons = [];
    this.end(whole);
  }

  #next() {
    document.querySelector("[data-choice].answer")?.classList.remove("answer");
    this.#judged = false;
    if (++this.#at === this.#lessons.length) {
      this.leave(true);
      return;
    }
    this.show(this.#lessons[this.#at]);
    this.#draw("Answer as you will later. You will hear what is right and why; nothing of this counts.", "");
  }

  #draw(text, kind) {
    $("practice-title").textContent = `Practice, ${this.#at + 1} of ${this.#lessons.length}`;
    $("practice-text").textContent = text;
    $("practice").dataset.kind = kind;
    $("practice-next").hidden = !this.#judged;
    $("practice-next").querySelector("span").textContent = this.#at + 1 === this.#lessons.length ? "Begin" : "Next pair";
  }
}

async function explained() {
  const { lessons } = await call("/api/practice").catch(() => ({ lessons: [] })); // offline there is our own round
  const ready = [];
  for (const lesson of lessons) {
    try {
      ready.push(await decode(lesson));
    } catch {} // a lesson that does not come is left out
  }
  return ready;
}
