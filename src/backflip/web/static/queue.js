// What comes in (pairs, fetched and decoded ahead) and what goes out (answers, kept until the server has them).

import { Later, Refused, call, sleep } from "./calls.js";
import { BrokenClip, loadClip } from "./clips.js";
import { isText } from "./texts.js";

const AHEAD = 3; // decoded pairs that wait; sheets with 256 px frames take 30 MB each
const POLL_MS = 400; // how often to look for pairs when there are none: somebody waits
const IDLE_MS = 3000; // the same where nobody waits: the run is over, the page is hidden, the link has ended
const RENEW_MS = 20000; // how often to tell the server which pairs are still wanted, and to hear news
const GIVE_UP = 3; // so many pairs in a row that could not be shown: it is this browser
const RETRY_MS = [300, 700, 1500, 2000];
const FINAL = [409, 422]; // it contradicts what is stored, or is no answer: sending it again would not help
const LOCKED_OUT = [401, 403]; // another link may help

/** A random UUID; crypto.randomUUID is missing on plain http from another machine. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** The browser's storage under a name; a page without storage works on, from memory. */
export class Shelf {
  constructor(name) {
    this.prefix = `backflip/${name}/`;
  }
  read(key, otherwise) {
    try {
      return JSON.parse(localStorage.getItem(this.prefix + key)) ?? otherwise;
    } catch {
      return otherwise;
    }
  }
  /** Keep a value; false if this browser does not. */
  write(key, value) {
    try {
      localStorage.setItem(this.prefix + key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }
  remove(key) {
    try {
      localStorage.removeItem(this.prefix + key);
    } catch {}
  }
  keys(start) {
    try {
      return Object.keys(localStorage).filter((key) => key.startsWith(this.prefix + start)).map((key) => key.slice(this.prefix.length)).sort();
    } catch {
      return [];
    }
  }
}

/** What this browser keeps for one person in one run: others may use it too, and another run may come to its address. */
export const shelfOf = ({ run, you }) => new Shelf(`${run}/${encodeURIComponent(you.name)}`);

/** Answers, skips, flags and undos on their way, in order, each under its UUID until the server has it. */
export class Outbox {
  #waiting = []; // {key, path, body, worth, kept}
  #shelf;
  #sending = false;
  #wake = null;
  #made = 0;

  /** onchange(outbox), onsaved(reply), onrefused(entry, sentence) */
  constructor(shelf, { onchange, onsaved, onrefused }) {
    this.#shelf = shelf;
    Object.assign(this, { onchange, onsaved, onrefused });
    this.state = "ok"; // ok, also where the server wants a moment | offline | locked out
    for (const key of shelf.keys("outbox/")) {
      const entry = shelf.read(key, null);
      if (entry?.path && entry?.body) this.#waiting.push({ key, kept: true, ...entry });
    }
    addEventListener("online", () => this.#wake?.());
    addEventListener("beforeunload", (event) => {
      if (this.#waiting.some((entry) => !entry.kept)) event.preventDefault(); // they are nowhere but in this page
    });
    this.#send();
  }

  get size() {
    return this.#waiting.length;
  }

  /** Queries that the server does not know to be done with yet. */
  get queries() {
    return this.#waiting.map((entry) => entry.body.showing).filter((showing) => showing !== undefined);
  }

  /** Segments that were picked among, of which the server need not know yet. */
  get segments() {
    return this.#waiting.flatMap((entry) => entry.body.segments ?? []);
  }

  /** How many more answers there will be once all is sent. */
  get answers() {
    return this.#waiting.reduce((sum, { worth }) => sum + (worth ?? 0), 0);
  }

  /** Send something, now or as soon as it can be; `worth` is how many more answers there are by it. */
  put(path, body, worth = 0) {
    const key = `outbox/${String(Date.now()).padStart(15, "0")}-${String(this.#made++).padStart(6, "0")}-${body.uuid}`;
    const kept = this.#shelf.write(key, { path, body, worth });
    this.#waiting.push({ key, path, body, worth, kept });
    this.onchange(this);
    this.#wake?.();
    this.#send();
  }

  async #send() {
    if (this.#sending) return;
    this.#sending = true;
    for (let failures = 0; this.#waiting.length; ) {
      const entry = this.#waiting[0];
      try {
        const reply = await call(entry.path, entry.body);
        failures = 0;
        this.#done(entry);
        this.onsaved(reply, entry);
      } catch (error) {
        if (FINAL.includes(error.status)) {
          this.#done(entry);
          this.onrefused(entry, error.message);
          continue;
        }
        this.state = LOCKED_OUT.includes(error.status) ? "locked out" : error instanceof Later ? "ok" : "offline";
        this.onchange(this);
        if (error instanceof Later) {
          await sleep(1000 * error.seconds);
          continue;
        }
        const wait = RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)];
        await Promise.race([sleep(wait), new Promise((resolve) => (this.#wake = resolve))]);
        this.#wake = null;
      }
    }
    this.#sending = false;
  }

  #done(entry) {
    this.#shelf.remove(entry.key);
    this.#waiting.splice(this.#waiting.indexOf(entry), 1);
    this.state = "ok";
    this.onchange(this);
  }
}

/** Pairs that are decoded and ready; keeps itself filled, for ever. */
export class Pairs {
  #ready = [];
  #broken = new Set();
  #inARow = 0; // pairs that could not be shown
  #refused = false;
  #filling = false;
  #again = false;

  /** onready(), onnews(reply, started), onbroken(pair, sentence), onlost(error); holding() gives queries in use elsewhere */
  constructor({ onready, onnews, onbroken, onlost, holding }) {
    Object.assign(this, { onready, onnews, onbroken, onlost, holding });
    this.wanted = true;
    this.#poll();
  }

  get size() {
    return this.#ready.length;
  }

  /** Whether this browser could show none of the newest pairs. */
  get givenUp() {
    return this.#inARow >= GIVE_UP;
  }

  /** The next pair, decoded; undefined if there is none. Once the run is over, only one whose answer was taken back. */
  take(over) {
    const pair = over && !this.#ready[0]?.again ? undefined : this.#ready.shift();
    if (pair !== undefined) this.fill(); // while there are none, the poll looks for more at its own pace
    return pair;
  }

  /** Put a pair back to be shown next. */
  putBack(pair) {
    this.#ready.unshift(pair);
  }

  /** Look for more pairs now. */
  async fill() {
    if (this.#filling) {
      this.#again = true;
      return;
    }
    this.#filling = true;
    do {
      await sleep(0); // whoever took a pair says first what became of it; only then is it clear what is still held
      this.#again = false;
      try {
        await this.#fetch();
        this.#refused = false;
      } catch (error) {
        this.#refused = error instanceof Refused;
        this.onlost(error);
      }
    } while (this.#again);
    this.#filling = false;
  }

  async #fetch() {
    const have = [...this.#ready.map((pair) => pair.showing), ...this.holding(), ...this.#broken];
    const most = this.givenUp ? 1 : AHEAD;
    const count = this.wanted ? Math.max(0, most - this.#ready.length) : 0;
    const started = performance.now();
    const reply = await call(`/api/next?count=${count}&have=${[...new Set(have)].slice(-50).join(",")}`);
    this.onnews(reply, started);
    const decoded = reply.pairs.map((pair) => decode(pair));
    for (const promise of decoded) promise.catch(() => {}); // each is looked at in its turn, unless one before it fails
    for (const [i, pair] of reply.pairs.entries()) {
      try {
        const whole = await decoded[i];
        const known = [...this.#ready.map((other) => other.showing), ...this.holding()];
        if (known.includes(pair.showing)) release(whole);
        else this.#ready.push(whole);
        this.#inARow = 0;
        this.onready();
      } catch (error) {
        if (!(error instanceof BrokenClip)) throw error;
        this.#broken.add(pair.showing);
        this.#inARow++;
        this.onbroken(pair, error.message);
        this.#again = !this.givenUp; // then the poll tries one now and then
      }
    }
  }

  async #poll() {
    for (;;) {
      await this.fill();
      const until = performance.now() + RENEW_MS;
      const waits = () => this.wanted && !this.#refused && !document.hidden;
      do await sleep(waits() ? POLL_MS : IDLE_MS); // a short sleep at a time: the pairs may run out in the middle
      while (this.wanted && (this.#ready.length || this.givenUp) && performance.now() < until);
    }
  }
}

/** Both clips of a pair, ready to draw. */
export async function decode(pair) {
  const [left, right] = await Promise.allSettled([loadClip(pair.left), loadClip(pair.right)]);
  for (const [side, other] of [[left, right], [right, left]]) {
    if (side.status === "rejected") {
      other.value?.free?.();
      throw side.reason;
    }
  }
  if (isText(left.value) !== isText(right.value)) {
    release({ left: left.value, right: right.value });
    throw new BrokenClip("one clip is a text and the other is not");
  }
  await Promise.all([left.value.prepare?.(), right.value.prepare?.()]);
  return { ...pair, left: left.value, right: right.value };
}

/** Give back the memory of a pair. */
export function release(pair) {
  pair.left.free?.(); // texts have nothing to give back
  pair.right.free?.();
}

/** What remains of a pair when its drawings are given back. */
export function outline(pair) {
  return { showing: pair.showing, left: pair.left.about ?? pair.left, right: pair.right.about ?? pair.right };
}
