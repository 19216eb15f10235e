// The labelling page: one pair at a time, one key an answer, the next pair on the screen with the key.

import { Later, call, callAs, sleep } from "./calls.js";
import { NotYet } from "./clips.js";
import { Guide } from "./guide.js";
import { Keys } from "./keys.js";
import { Look } from "./look.js";
import { isLockedOut, learnedWords, lostWords, overWords, waitingWords } from "./notices.js";
import { Player } from "./player.js";
import { Playing } from "./playing.js";
import { Round } from "./practice.js";
import { Outbox, Pairs, Shelf, decode, outline, release, shelfOf, uuid } from "./queue.js";
import { Remap } from "./remap.js";
import { Chime, Rest } from "./rest.js";
import { listenForSwipes } from "./swipe.js";
import { Tally } from "./tally.js";
import { OVER, choiceSeen, duration, many, setText } from "./words.js";

const UNDOABLE = 10;
const SHOW_WAITING_MS = 250; // an answer on its way for less is not worth a word
const CHIME_AFTER_MS = 3000; // who waited for less has not gone away
const SWIPES = { left: "left", right: "right", up: "equal", down: "incomparable" }; // as the arrow keys
const FIGURES = { left: ["left-clip"], right: ["right-clip"], equal: ["left-clip", "right-clip"], incomparable: [] };
const WENT = { skip: "skipped it", flag: "flagged it" };

const $ = (id) => document.getElementById(id);

class Page {
  constructor(first) {
    this.shelf = shelfOf(first);
    callAs(first.you.name);
    this.history = this.shelf.read("history", []); // {uuid, choice (or skip, flag), pair}, newest last
    this.current = null; // the pair on the screen
    this.previous = null; // the one before, still decoded, for a quick undo
    this.undoing = null; // the number of a pair that is being brought back
    this.round = null; // of practice, while there is one
    this.news = first;
    this.countsFrom = 0;
    this.lost = null;
    this.waitsSince = null;

    this.player = new Player([$("left-clip"), $("right-clip")], $("prompt"));
    this.look = new Look(this.player);
    this.rest = new Rest();
    this.tally = new Tally(this.shelf);
    this.playing = new Playing(this.player);
    this.outbox = new Outbox(this.shelf, {
      onchange: () => this.drawSaved(),
      onsaved: (reply, entry) => this.hear(reply, entry),
      onrefused: (entry, sentence) => this.say(`An answer was refused: ${sentence}`),
    });
    this.pairs = new Pairs({
      holding: () => [this.current?.showing, this.undoing, ...this.outbox.queries].filter((showing) => showing != null),
      onready: () => this.settle(),
      onnews: (reply, started) => this.hearNews(reply, started),
      onbroken: (pair, sentence) => {
        console.warn(`pair ${pair.showing} is left to others: ${sentence}`); // it may be this browser
        this.outbox.put("/api/skip", { uuid: uuid(), showing: pair.showing });
        this.sayBroken();
      },
      onlost: (error) => this.lose(error),
    });
    this.listen();
    this.drawNews();
  }

  listen() {
    const everywhere = new Shelf("everywhere"); // what belongs to the person rather than to the run
    this.chime = new Chime(everywhere);
    this.keys = new Keys(everywhere, (action, event) => this.do(action, event, "key"));
    this.guide = new Guide(this.shelf, {
      keys: this.keys,
      remap: new Remap(this.keys),
      chime: this.chime,
      oncover: (covered) => this.cover(covered),
      onpractice: () => this.practise(),
    });
    for (const button of document.querySelectorAll("[data-choice], [data-action]")) {
      button.addEventListener("click", (event) => {
        if (event.detail > 0) button.blur(); // after the mouse, the space bar shall pause, not press it again
        this.do(button.dataset.choice ?? button.dataset.action, event, "button");
      });
    }
    $("rest-over").addEventListener("click", () => ($("rest").hidden = true));
    listenForSwipes($("stage"), {
      onmove: (direction) => this.drawSwipe(direction),
      onswipe: (direction, event) => this.do(SWIPES[direction], event, "swipe"),
    });
    setInterval(() => this.drawUndo(), 1000);
  }

  // ---- what the person does

  do(action, event, by) {
    if (action in FIGURES) this.answer(action, event, by);
    else if (action === "undo") this.undo(event);
    else if (action === "skip" || action === "flag") this.leave(action, event);
    else if (action === "help") this.guide.open();
    else this.playing.do(action);
  }

  answer(choice, event, by) {
    if (!this.look.enough) return;
    if (this.round) {
      this.round.answer(choice, this.look.facts(by));
      return;
    }
    if (this.current === null) return;
    const given = { uuid: uuid(), showing: this.current.showing, choice, ...this.look.facts(by) };
    this.tally.answered(given.seconds, performance.now());
    this.done(given, choice, event, "/api/answer", 1);
    this.flash(choice);
    this.say(`You said ${choiceSeen(choice)}.`);
    if (this.rest.answered(performance.now())) $("rest").hidden = false;
  }

  /** Skip a pair, for others to answer; or flag it, so that nobody is shown it. */
  leave(how, event) {
    if (!this.look.enough || this.round || this.current === null) return;
    this.done({ uuid: uuid(), showing: this.current.showing }, how, event, `/api/${how}`, 0);
    this.say(how === "skip" ? "Skipped; somebody else may get it." : "Flagged; nobody is shown that pair any more. Undo takes it back.");
  }

  /** On to the next pair; then what became of this one goes on its way. */
  done(body, choice, event, path, worth) {
    this.history = [...this.history, { uuid: body.uuid, choice, pair: outline(this.current), at: Date.now() }].slice(-UNDOABLE);
    this.advance(event.timeStamp);
    this.outbox.put(path, body, worth);
    this.shelf.write("history", this.history);
    this.tally.count(worth);
    this.drawCounts();
  }

  async undo(event) {
    const last = this.history.at(-1);
    if (!last || this.undoing !== null || this.round || this.over) return; // a run that is over asks nothing again
    const worth = last.choice in WENT ? 0 : -1;
    this.history = this.history.slice(0, -1);
    this.shelf.write("history", this.history);
    this.undoing = last.pair.showing;
    this.outbox.put("/api/undo", { uuid: uuid(), undone: last.uuid }, worth);
    this.tally.count(worth);
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
    else this.show({ ...pair, again: true }, event.timeStamp);
    this.say(`Taken back: you had ${WENT[last.choice] ?? `said ${choiceSeen(last.choice)}`}.`);
  }

  /** A dialog lies over the clips, or does not any more: they stand still meanwhile, and no time is counted. */
  cover(covered) {
    this.look.cover("dialog", covered);
    this.player.held = covered;
    if (covered) {
      performance.clearMarks("shown");
      return;
    }
    this.player.restart();
    if (this.current !== null) this.mark(this.current, performance.now());
  }

  async practise() {
    if (this.round) return;
    this.round = new Round({
      show: (lesson) => this.present(lesson, null),
      send: (body) => this.outbox.put("/api/answer", body),
      end: (whole) => {
        this.round = null;
        if (this.current === null) this.settle();
        else this.present(this.current, null);
        this.drawNews();
        this.say(whole ? "From here on your answers count." : "");
      },
    });
    this.drawState();
    await this.round.begin(this.news.kind);
    this.drawNews();
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
    if (this.round) return;
    if (this.over && this.current !== null && !this.current.again) {
      this.pairs.putBack(this.current);
      this.current = null;
    }
    if (this.current === null && this.undoing === null) {
      const pair = this.pairs.take(this.over);
      if (pair !== undefined) this.show(pair, since);
    }
    this.drawState();
  }

  show(pair, since) {
    this.current = pair;
    this.present(pair, since !== undefined).then((painted) => {
      if (this.current !== pair || since === undefined) return;
      this.look.swapped(painted - since);
      performance.clearMeasures("swap");
      if (painted >= since) performance.measure("swap", { start: since, end: painted });
    });
  }

  present(pair, prefetched) {
    this.look.begin(prefetched);
    performance.clearMarks("shown");
    const shown = this.player.show([pair.left, pair.right]);
    this.drawState();
    shown.then((painted) => !this.look.covered && this.mark(pair, painted));
    return shown;
  }

  /** For whoever measures the page from outside: since when a pair is in sight. */
  mark(pair, startTime) {
    performance.clearMarks("shown");
    performance.mark("shown", { startTime, detail: pair.showing });
  }

  // ---- what the server says

  get over() {
    return OVER.includes(this.news.now.run.state);
  }

  hear(reply, { worth }) {
    this.lost = null;
    this.countsFrom = performance.now();
    this.news.counts = reply.counts;
    if (!reply.duplicate) this.news.you.given += worth ?? 0;
    this.drawCounts();
    this.drawSaved();
  }

  hearNews(reply, started) {
    this.lost = null;
    const { counts, you } = started < this.countsFrom ? this.news : reply; // an answer may have been quicker
    this.news = { ...reply, counts, you };
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
    const showing = this.current !== null || this.round !== null;
    const state = this.round ? "practice" : showing ? "showing" : this.over ? "over" : "waiting";
    this.callBack(state);
    document.body.dataset.state = state;
    document.body.dataset.showing = this.round ? "" : (this.current?.showing ?? "");
    $("stage").hidden = !showing;
    $("notice").hidden = showing;
    $("practice").hidden = this.round === null;
    if (!showing && this.undoing === null) this.player.clear();
    for (const button of document.querySelectorAll("[data-choice], .playing button")) button.disabled = !showing;
    $("turn").hidden = !this.player.turns;
    for (const id of ["skip", "flag"]) $(id).disabled = !showing || this.round !== null;
    setText("ready", showing && !this.round ? `${many(this.pairs.size, "pair")} ready` : "");
    if (!showing) this.drawNotice(state);
    this.drawUndo();
  }

  /** Who waited for long may have gone away: call them back. */
  callBack(state) {
    if (state === "waiting") this.waitsSince ??= performance.now();
    if (state !== "showing" || this.waitsSince === null) return;
    if (performance.now() - this.waitsSince > CHIME_AFTER_MS) {
      this.chime.ring();
      this.say("There are pairs again.");
    }
    this.waitsSince = null;
  }

  drawNotice(state) {
    const [title, text] = state === "over" ? overWords(this.news, this.outbox.size) : this.lost ? lostWords(this.lost) : waitingWords(this.news);
    setText("notice-title", title);
    setText("notice-text", text);
  }

  drawNews() {
    const { settings, you, kind } = this.news;
    document.body.dataset.kind = kind;
    this.keys.reading = kind === "texts";
    setText("task", settings.task);
    const [, question, criteria] = /^(.*?[?.])\s+(.+)$/s.exec(this.round?.question ?? settings.question) ?? [null, settings.question, ""];
    setText("question", question || (kind === "texts" ? "Which text is better?" : "Which clip is better?"));
    setText("criteria", criteria);
    document.title = settings.task ? `${settings.task} · backflip` : "backflip";
    setText("annotator", you.name === "you" ? "" : you.name);
    setText("learned", learnedWords(this.news));
    $("to-run").hidden = you.role === "label";
    this.guide.hear(this.news);
    this.drawCounts();
    this.drawSaved();
    this.drawState();
  }

  drawCounts() {
    this.tally.draw(this.news, this.outbox.answers);
    this.drawUndo();
  }

  drawUndo() {
    const last = this.history.at(-1);
    $("undo").disabled = last === undefined || this.round !== null || this.over;
    const what = last && `${last.choice in WENT ? last.choice : choiceSeen(last.choice)}, ${duration(Math.max(0, Date.now() - last.at) / 1000)} ago`;
    setText("undo-what", last ? ` (${what})` : "");
  }

  drawSaved() {
    if (!this.outbox) return; // it speaks while it is being made
    if (document.body.dataset.state === "over") this.drawNotice("over");
    clearTimeout(this.savedTimer);
    const { size, state } = this.outbox;
    const waiting = size ? ` · ${size} waiting` : "";
    const saved = (text, kind) => {
      setText("saved", text);
      $("saved").dataset.kind = kind;
    };
    if (state === "locked out" || isLockedOut(this.lost)) saved(`link needed${waiting}`, "bad");
    else if (state === "offline" || (this.lost && !(this.lost instanceof Later || this.lost instanceof NotYet))) saved(`offline${waiting}`, "bad");
    else if (!size) saved("all saved", "ok");
    else this.savedTimer = setTimeout(() => saved(`${size} waiting`, "busy"), SHOW_WAITING_MS);
  }

  /** What would be answered if the finger went up now. */
  drawSwipe(direction) {
    const choice = direction && !$("stage").hidden ? SWIPES[direction] : null;
    $("swipe").hidden = choice === null;
    if (choice) setText("swipe", document.querySelector(`[data-choice="${choice}"]`).innerText);
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
    setText("last", text);
  }

  sayBroken() {
    const what = this.news.kind === "texts" ? "text" : "clip";
    if (this.pairs.givenUp) this.say(`This browser cannot show these ${what}s. Try another browser, or ask whoever sent you the link.`);
    else this.say(`A ${what} could not be shown; that pair was passed over.`);
  }
}

/** The page needs to know the run and the person before it may send what an earlier visit left behind. */
async function start() {
  for (;;) {
    try {
      return new Page(await call("/api/next?count=0"));
    } catch (error) {
      const [title, text] = lostWords(error);
      $("notice").hidden = false;
      $("stage").hidden = true;
      setText("notice-title", title);
      setText("notice-text", text);
      await sleep(1000);
    }
  }
}

start();
