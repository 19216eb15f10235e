// The labelling page: one pair at a time, one key an answer, the next pair on the screen with the key.

import { Player } from "./player.js";
import { Outbox, Pairs, Refused, Shelf, call, decode, outline, release, sleep, uuid } from "./queue.js";
import { OVER, amount, choiceSeen, isNumber, many, policyLine } from "./words.js";

const MIN_VIEW_MS = 400; // an answer sooner than this was not looked at
const UNDOABLE = 10;
const RECENT = 50; // answers that the median is taken over
const SHOW_WAITING_MS = 250; // an answer on its way for less is not worth a word
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "equal", ArrowDown: "incomparable" };
const FIGURES = { left: ["left-clip"], right: ["right-clip"], equal: ["left-clip", "right-clip"], incomparable: [] };

const $ = (id) => document.getElementById(id);

class Page {
  constructor(first) {
    this.shelf = new Shelf(first.run);
    this.history = this.shelf.read("history", []); // {uuid, choice, pair}, newest last
    this.recent = []; // seconds per answer
    this.current = null; // the pair on the screen
    this.previous = null; // the one before, still decoded, for a quick undo
    this.undoing = null; // the query of a pair that is being brought back
    this.swap = {}; // how the current pair came to the screen
    this.hiddenMs = 0;
    this.news = first;
    this.countsFrom = 0;
    this.lost = null;

    this.player = new Player([$("left-clip"), $("right-clip")]);
    this.setPaused(matchMedia("(prefers-reduced-motion: reduce)").matches);
    this.outbox = new Outbox(this.shelf, {
      onchange: () => this.drawSaved(),
      onsaved: (reply) => this.hear(reply),
      onrefused: (entry, sentence) => this.say(`An answer was refused: ${sentence}`),
    });
    this.pairs = new Pairs({
      holding: () => [this.current?.showing, this.undoing, ...this.outbox.queries].filter((showing) => showing != null),
      onready: () => this.settle(),
      onnews: (reply, started) => this.hearNews(reply, started),
      onbroken: (pair, sentence) => {
        this.outbox.put("/api/flag", { uuid: uuid(), showing: pair.showing, reason: sentence.slice(0, 200) });
        this.sayBroken();
      },
      onlost: (error) => this.lose(error),
    });
    this.listen();
    this.drawNews();
  }

  listen() {
    addEventListener("keydown", (event) => this.onkey(event));
    for (const button of document.querySelectorAll("[data-choice]")) {
      this.onclick(button, (event) => this.answer(button.dataset.choice, event));
    }
    this.onclick($("undo"), (event) => this.undo(event));
    this.onclick($("skip"), (event) => this.skip(event));
    this.onclick($("pause"), () => this.setPaused(!this.player.paused));
    let hiddenAt = 0;
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) hiddenAt = performance.now();
      else if (hiddenAt) this.hiddenMs += performance.now() - Math.max(hiddenAt, this.player.painted ?? 0);
    });
  }

  onclick(button, act) {
    button.addEventListener("click", (event) => {
      if (event.detail > 0) button.blur(); // after the mouse, the space bar shall pause, not press it again
      act(event);
    });
  }

  onkey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const onButton = event.target instanceof HTMLButtonElement || event.target instanceof HTMLAnchorElement;
    if (onButton && (key === " " || key === "Enter")) {
      if (event.repeat) event.preventDefault(); // a held key is one answer
      return;
    }
    const act =
      key in KEYS ? () => this.answer(KEYS[key], event)
      : key === "u" || key === "Backspace" ? () => this.undo(event)
      : key === "s" ? () => this.skip(event)
      : key === " " ? () => this.setPaused(!this.player.paused)
      : null;
    if (act === null) return;
    event.preventDefault(); // arrows and space would scroll
    if (!event.repeat) act();
  }

  // ---- what the person does

  /** Whether the pair has been on the screen for long enough to be judged. */
  get seen() {
    return this.current !== null && this.player.painted !== null && performance.now() - this.player.painted >= MIN_VIEW_MS;
  }

  answer(choice, event) {
    if (!this.seen) return;
    const seconds = Math.max(0, performance.now() - this.player.painted - this.hiddenMs) / 1000;
    const given = { uuid: uuid(), showing: this.current.showing, choice, seconds: round(seconds), loops: round(this.player.loops), ...this.swap };
    this.history = [...this.history, { uuid: given.uuid, choice, pair: outline(this.current) }].slice(-UNDOABLE);
    this.recent = [...this.recent, seconds].slice(-RECENT);
    this.advance(event.timeStamp);
    this.outbox.put("/api/answer", given);
    this.shelf.write("history", this.history);
    this.countToday(1);
    this.flash(choice);
    this.say(`You said ${choiceSeen(choice)}.`);
    this.drawCounts();
  }

  skip(event) {
    if (!this.seen) return;
    const skipped = { uuid: uuid(), showing: this.current.showing };
    this.advance(event.timeStamp);
    this.outbox.put("/api/skip", skipped);
    this.say("Skipped; somebody else may get it.");
  }

  async undo(event) {
    const last = this.history.at(-1);
    if (!last || this.undoing !== null) return;
    this.history = this.history.slice(0, -1);
    this.shelf.write("history", this.history);
    this.undoing = last.pair.showing;
    this.outbox.put("/api/undo", { uuid: uuid(), undone: last.uuid });
    this.countToday(-1);
    if (this.current !== null) this.pairs.putBack(this.current);
    this.current = null;
    document.body.dataset.showing = ""; // the old pair stays in sight until the other is there, but takes no answer
    this.drawCounts();
    let pair = null;
    if (this.previous?.showing === last.pair.showing) {
      pair = this.previous;
      this.previous = null;
    } else {
      pair = await decode(last.pair).catch(() => null); // if not now, the server brings it again
    }
    this.undoing = null;
    if (pair === null) this.settle();
    else this.show(pair, event.timeStamp);
    this.say(`Taken back: you had said ${choiceSeen(last.choice)}.`);
  }

  setPaused(paused) {
    this.player.paused = paused;
    $("pause").setAttribute("aria-pressed", String(paused));
    $("pause").querySelector("span").textContent = paused ? "Play" : "Pause";
    $("stage").classList.toggle("paused", paused);
  }

  // ---- which pair is on the screen

  /** From this pair to the next, drawn before this returns. */
  advance(since) {
    if (this.previous !== null) release(this.previous);
    this.previous = this.current;
    this.current = null;
    this.settle(since);
  }

  /** Show a pair if there is none on the screen and one is ready. */
  settle(since) {
    if (this.over) {
      if (this.current !== null) this.pairs.putBack(this.current);
      this.current = null;
    } else if (this.current === null && this.undoing === null) {
      const pair = this.pairs.take();
      if (pair !== undefined) this.show(pair, since);
    }
    this.drawState();
  }

  show(pair, since) {
    const prefetched = since !== undefined;
    this.current = pair;
    this.hiddenMs = 0;
    this.swap = { prefetched };
    performance.clearMarks("shown");
    const shown = this.player.show([pair.left, pair.right]);
    this.drawState();
    shown.then((painted) => {
      if (this.current !== pair) return;
      performance.mark("shown", { startTime: painted, detail: pair.showing });
      if (!prefetched) return;
      this.swap.swap_ms = round(Math.max(0, painted - since));
      performance.clearMeasures("swap");
      performance.measure("swap", { start: since, end: painted });
    });
  }

  // ---- what the server says

  get over() {
    return OVER.includes(this.news.now.run.state);
  }

  hear(reply) {
    this.lost = null;
    this.countsFrom = performance.now();
    this.news.counts = reply.counts;
    this.drawCounts();
    this.drawSaved();
  }

  hearNews(reply, started) {
    this.lost = null;
    const counts = started < this.countsFrom ? this.news.counts : reply.counts; // an answer may have been quicker
    this.news = { ...reply, counts };
    this.pairs.wanted = !this.over;
    if (reply.passed_over) this.sayBroken();
    this.settle();
    this.drawNews();
  }

  lose(error) {
    this.lost = error;
    this.drawState();
    this.drawSaved();
  }

  // ---- drawing

  drawState() {
    const showing = this.current !== null;
    const state = showing ? "showing" : this.over ? "over" : "waiting";
    document.body.dataset.state = state;
    document.body.dataset.showing = this.current?.showing ?? "";
    $("stage").hidden = !showing;
    $("notice").hidden = showing;
    if (!showing && this.undoing === null) this.player.clear();
    for (const button of document.querySelectorAll("[data-choice], #skip, #pause")) button.disabled = !showing;
    $("undo").disabled = this.history.length === 0;
    $("ready").textContent = showing ? `${many(this.pairs.size, "pair")} ready` : "";
    if (!showing) this.drawNotice(state);
  }

  drawNotice(state) {
    const [title, text] = state === "over" ? overWords(this.news, this.outbox.size) : this.lost ? lostWords(this.lost) : waitingWords(this.news);
    setText($("notice-title"), title);
    setText($("notice-text"), text);
  }

  drawNews() {
    const { settings, now } = this.news;
    setText($("task"), settings.task);
    const [, question, criteria] = /^(.*?[?.])\s+(.+)$/s.exec(settings.question) ?? [null, settings.question, ""];
    setText($("question"), question || "Which clip is better?");
    setText($("criteria"), criteria);
    document.title = settings.task ? `${settings.task} · backflip` : "backflip";
    const [line, kind] = policyLine(now);
    setText($("policy"), line);
    $("policy-dot").dataset.kind = kind;
    this.drawCounts();
    this.drawSaved();
    this.drawState();
  }

  drawCounts() {
    setText($("total"), amount(Math.max(0, this.news.counts.labels + this.outbox.answers)));
    setText($("budget"), isNumber(this.news.settings.labels) ? ` of ${amount(this.news.settings.labels)}` : "");
    setText($("today"), String(this.today().answers));
    setText($("median"), this.recent.length ? `${median(this.recent).toFixed(1)} s` : "–");
    $("undo").disabled = this.history.length === 0;
  }

  drawSaved() {
    if (!this.outbox) return; // it speaks while it is being made
    if (document.body.dataset.state === "over") this.drawNotice("over");
    clearTimeout(this.savedTimer);
    const { size, state } = this.outbox;
    const waiting = size ? ` · ${size} waiting` : "";
    const saved = (text, kind) => {
      setText($("saved"), text);
      $("saved").dataset.kind = kind;
    };
    if (state === "locked out" || (this.lost instanceof Refused && this.lost.status === 401)) saved(`link needed${waiting}`, "bad");
    else if (state === "offline" || this.lost) saved(`offline${waiting}`, "bad");
    else if (!size) saved("all saved", "ok");
    else this.savedTimer = setTimeout(() => saved(`${size} waiting`, "busy"), SHOW_WAITING_MS);
  }

  flash(choice) {
    const button = document.querySelector(`[data-choice="${choice}"]`);
    button.classList.remove("chosen");
    void button.offsetWidth; // lets the same button flash twice in a row
    button.classList.add("chosen");
    for (const id of FIGURES[choice]) {
      $(id).animate([{ outlineColor: "var(--accent)" }, { outlineColor: "transparent" }], { duration: 500, easing: "ease-out" });
    }
  }

  say(text) {
    setText($("last"), text);
  }

  sayBroken() {
    this.say("A clip could not be shown; that pair was passed over.");
  }

  today() {
    const day = new Date().toLocaleDateString("sv");
    const kept = this.shelf.read("today", null);
    return kept?.day === day ? kept : { day, answers: 0 };
  }

  countToday(change) {
    const { day, answers } = this.today();
    this.shelf.write("today", { day, answers: Math.max(0, answers + change) });
  }
}

function overWords({ now }, waiting) {
  const words = { finished: "The run is finished", stopped: "The run has been stopped", failed: "The run has failed" };
  const why = now.run.message ? `${now.run.message}. `.replace(/\.\. $/, ". ") : "";
  const saved = waiting ? `${many(waiting, "answer")} of yours ${waiting === 1 ? "is" : "are"} still on the way; leave the page open.` : "every answer of yours is saved.";
  return [words[now.run.state], `${why}Thank you: ${saved} If the run goes on, so does this page, by itself.`];
}

function lostWords(error) {
  if (error instanceof Refused && error.status === 401) {
    return ["This page needs its link again", "Open the link that backflip printed. Answers that were not sent yet are kept in this browser."];
  }
  return ["The server does not answer", "Answers that were not sent yet are kept in this browser. The page goes on by itself as soon as the server is back."];
}

function waitingWords({ counts, now, undrawn }) {
  const title = "The agent is making new clips…";
  if (undrawn > 0) return [title, `${many(undrawn, "clip")} of the next pairs ${undrawn === 1 ? "is" : "are"} being drawn. The page goes on by itself.`];
  if (counts.asked === 0) return [title, "It is trying things out for the first time; the first pairs come as soon as it has done enough to compare. The page goes on by itself."];
  if (isNumber(now.ask.due) && counts.labels >= now.ask.due) {
    return ["Nothing to ask right now", `You have given ${many(counts.labels, "answer")}, all that the schedule wants so far. It asks again when the policy has learned from them; the page goes on by itself.`];
  }
  return [title, "You have answered everything there is. New pairs come as the policy tries new things; the page goes on by itself."];
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const round = (value) => Math.round(value * 1000) / 1000;

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The page needs to know the run before it may send what an earlier visit left behind. */
async function start() {
  for (;;) {
    try {
      return new Page(await call("/api/next?count=0"));
    } catch (error) {
      const [title, text] = lostWords(error);
      $("notice").hidden = false;
      $("stage").hidden = true;
      setText($("notice-title"), title);
      setText($("notice-text"), text);
      await sleep(1000);
    }
  }
}

start();
