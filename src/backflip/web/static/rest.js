// What makes an hour of answering bearable: a word about a break, and a chime when there are clips again.

const REST_MS = 20 * 60 * 1000; // people's answers get worse with tiredness
const BREAK_MS = 5 * 60 * 1000; // whoever was away for so long has had a break
const COUNTED_MS = 60 * 1000; // at most, between two answers

/** Counts the time that was spent answering. */
export class Rest {
  #last = null;
  #spent = 0;

  /** Another answer, at a time in ms; whether it is time for a break. */
  answered(now) {
    const gap = this.#last === null ? 0 : now - this.#last;
    this.#last = now;
    if (gap > BREAK_MS) this.#spent = 0;
    else this.#spent += Math.min(gap, COUNTED_MS);
    if (this.#spent < REST_MS) return false;
    this.#spent = 0;
    return true;
  }
}

/** Two soft tones; off until somebody wants them. */
export class Chime {
  #shelf;
  #context = null;

  constructor(shelf) {
    this.#shelf = shelf;
    this.on = shelf.read("chime", false) === true;
    addEventListener("pointerdown", () => this.#wake()); // browsers let a page make sounds after the first touch or key
    addEventListener("keydown", () => this.#wake());
  }

  turn(on) {
    this.on = on;
    this.#shelf.write("chime", on);
    if (on) this.ring();
  }

  ring() {
    if (!this.on) return;
    this.#wake();
    for (const [delay, frequency] of [[0, 660], [0.18, 880]]) {
      const start = this.#context.currentTime + delay;
      const tone = new OscillatorNode(this.#context, { frequency });
      const volume = new GainNode(this.#context, { gain: 0 });
      volume.gain.linearRampToValueAtTime(0.12, start + 0.02);
      volume.gain.exponentialRampToValueAtTime(0.001, start + 0.5);
      tone.connect(volume).connect(this.#context.destination);
      tone.start(start);
      tone.stop(start + 0.5);
    }
  }

  #wake() {
    if (!this.on) return;
    this.#context ??= new AudioContext();
    if (this.#context.state === "suspended") this.#context.resume();
  }
}
