// How a pair was looked at. What could not be measured is null: no answer is worth less for it.

const MIN_VIEW_MS = 400; // an answer sooner than this was not looked at
const MOST = 1e6; // nothing here is larger, unless a clock jumped

const stacked = matchMedia("(max-width: 640px)"); // where style.css puts one clip above the other

const measured = (value) => (Number.isFinite(value) && value >= 0 && value <= MOST ? Math.round(value * 1000) / 1000 : null);

export class Look {
  #player;
  #covers = new Set(); // what lies over the clips now: a dialog, another tab
  #coveredAt = 0;
  #awayMs = 0;
  #swap = {};

  constructor(player) {
    this.#player = player;
    const tab = () => this.cover("tab", document.hidden);
    document.addEventListener("visibilitychange", tab);
    tab();
  }

  /** A new pair comes; `prefetched` says whether it was ready, null that nobody waited for it. */
  begin(prefetched) {
    this.#swap = { prefetched, swap_ms: null };
    this.#awayMs = 0;
    this.#coveredAt = performance.now();
  }

  /** Its first frame is on the screen, `ms` after the key that brought it. */
  swapped(ms) {
    this.#swap.swap_ms = measured(ms);
  }

  /** Something lies over the clips, or does not any more. */
  cover(what, covered) {
    const now = performance.now();
    this.#awayMs += this.#coveredMs(now);
    this.#coveredAt = now;
    if (covered) this.#covers.add(what);
    else this.#covers.delete(what);
  }

  /** Whether something lies over the clips. */
  get covered() {
    return this.#covers.size > 0;
  }

  /** Whether the pair has been in sight for long enough to be judged. */
  get enough() {
    return !this.covered && this.#ms() >= MIN_VIEW_MS;
  }

  /** All that there is to say about it, for the answer. */
  facts(by) {
    const { loops, speed, paused } = this.#player.moves ? this.#player : {}; // texts have none of it
    return { seconds: this.seconds, loops: measured(loops), speed: measured(speed), paused, by, view: stacked.matches ? "stacked" : "beside", ...this.#swap };
  }

  /** For how long the pair was in sight. */
  get seconds() {
    return measured(this.#ms() / 1000);
  }

  /** Negative infinity before anything is on the screen. */
  #ms() {
    const { painted } = this.#player;
    if (painted === null) return -Infinity;
    const now = performance.now();
    return now - painted - this.#awayMs - this.#coveredMs(now);
  }

  /** For how long it has been covered by now, since that last changed. */
  #coveredMs(now) {
    const { painted } = this.#player;
    return painted === null || !this.covered ? 0 : now - Math.max(this.#coveredAt, painted);
  }
}
