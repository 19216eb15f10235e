// Which key does what: the defaults, what the person made of them, and what is never taken for one.

/** What there is to do, in words, and its keys: two at most. */
export const ACTIONS = {
  left: ["Left is better", ["ArrowLeft", "1"]],
  equal: ["About the same", ["ArrowUp", "2"]],
  incomparable: ["Can’t tell", ["ArrowDown", "3"]],
  right: ["Right is better", ["ArrowRight", "4"]],
  undo: ["Undo", ["u", "Backspace"]],
  skip: ["Skip", ["s"]],
  flag: ["Flag", ["f"]],
  pause: ["Pause or play", [" "]],
  back: ["One frame back", [","]],
  forward: ["One frame on", ["."]],
  restart: ["From the beginning", ["r"]],
  turn: ["See both from another side", ["v"]],
  straight: ["From the first side again", ["b"]],
  slower: ["Slower", ["-"]],
  faster: ["Faster", ["+"]],
  help: ["Help", ["?"]],
};
export const SLOTS = [0, 1];

const MOVING = ["pause", "back", "forward", "restart", "slower", "faster", "turn", "straight"]; // only for clips that move
const REPEATED = ["back", "forward"]; // a held key is one answer, but may turn pages
const RESERVED = ["Tab", "Enter", "Escape", "Shift", "Control", "Alt", "AltGraph", "Meta", "CapsLock", "ContextMenu", "Dead", "Process", "Unidentified"];
const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space", Backspace: "Bksp", Delete: "Del" };

/** A key as it is printed on the page. */
export const keyName = (key) => NAMES[key] ?? (key.length === 1 ? key.toUpperCase() : key);

/** The key of an event, whatever Shift or Caps Lock make of a letter. */
export const keyOf = (event) => (event.key.length === 1 ? event.key.toLowerCase() : event.key);

export class Keys {
  #shelf;
  #of; // action -> [key or null, key or null]

  /** onpress(action, event) */
  constructor(shelf, onpress) {
    this.#shelf = shelf;
    this.onpress = onpress;
    this.reading = false; // what is on the page does not move
    this.on = shelf.read("keys-on", true) !== false;
    this.#of = this.#defaults();
    const kept = shelf.read("keys", {});
    for (const action of Object.keys(ACTIONS)) {
      if (Array.isArray(kept[action])) this.#of[action] = SLOTS.map((slot) => (typeof kept[action][slot] === "string" ? kept[action][slot] : null));
    }
    addEventListener("keydown", (event) => this.#onkey(event));
    this.draw();
  }

  /** Whether an action has no use as long as there are texts: its keys scroll, as everywhere. */
  resting(action) {
    return this.reading && MOVING.includes(action);
  }

  /** The keys of an action, null where a slot is empty. */
  of(action) {
    return this.#of[action];
  }

  /** Give an action a key (null: none) in one of its slots; returns a sentence if that cannot be. */
  set(action, slot, key) {
    if (key !== null) {
      if (RESERVED.includes(key) || /^F\d+$/.test(key)) return `${keyName(key)} belongs to the browser; press another key.`;
      const other = Object.keys(ACTIONS).find((name) => this.#of[name].some((taken, i) => taken === key && !(name === action && i === slot)));
      if (other !== undefined) return `${keyName(key)} is already there for “${ACTIONS[other][0]}”; give that another key first, or press another one here.`;
    }
    this.#of[action] = this.#of[action].map((kept, i) => (i === slot ? key : kept));
    this.#keep();
    return null;
  }

  /** Back to the keys that everybody has at first. */
  reset() {
    this.#of = this.#defaults();
    this.#keep();
  }

  /** Whether keys do anything; without them there are the buttons. */
  turn(on) {
    this.on = on;
    this.#shelf.write("keys-on", on);
    this.draw();
  }

  /** Print its key on each button. */
  draw() {
    for (const hint of document.querySelectorAll("[data-key]")) {
      const key = this.#of[hint.dataset.key].find((one) => one !== null);
      hint.textContent = key ? keyName(key) : "";
      hint.hidden = !key || !this.on;
    }
  }

  #defaults() {
    return Object.fromEntries(Object.entries(ACTIONS).map(([action, [, keys]]) => [action, SLOTS.map((slot) => keys[slot] ?? null)]));
  }

  #keep() {
    this.#shelf.write("keys", this.#of);
    this.draw();
  }

  #onkey(event) {
    if (!this.on || event.altKey || event.ctrlKey || event.metaKey || event.isComposing) return;
    if (document.querySelector("dialog[open]") || isEditing(event.target)) return;
    const key = keyOf(event);
    if (event.target.closest?.("button, a, summary") && (key === " " || key === "Enter")) {
      if (event.repeat) event.preventDefault(); // a held key presses once
      return;
    }
    const action = Object.keys(ACTIONS).find((name) => this.#of[name].includes(key));
    if (action === undefined || this.resting(action)) return;
    event.preventDefault(); // arrows and space would scroll
    if (!event.repeat || REPEATED.includes(action)) this.onpress(action, event);
  }
}

const isEditing = (element) => element.isContentEditable || ["INPUT", "SELECT", "TEXTAREA"].includes(element.tagName);
