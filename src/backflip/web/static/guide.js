// The guide: what is asked, how to answer, and what can be set; it comes by itself before the first answer.

import { ACTIONS, keyName } from "./keys.js";
import { call } from "./calls.js";
import { setText } from "./words.js";

const $ = (id) => document.getElementById(id);

const FOR_ANY_TASK = {
  films: `Choose the clip in which better things happen.
Judge only what you see in the clips, not how it came to that or what may come next.
If both are about as good, or as bad, say that they are about the same.
If you do not understand what you see, or cannot weigh it up, say that you can’t tell; try not to need that often.`,
  texts: `Choose the text that does better what the question asks for.
Judge only what is written there, as it is; the longer one is not the better one for that.
If both are about as good, or as bad, say that they are about the same.
If you do not understand them, or cannot weigh it up, say that you can’t tell; try not to need that often.`,
};

export class Guide {
  #shelf;
  #news = null;
  #text = { version: null, words: "" }; // what is to be read, in the version that was fetched last

  /** oncover(covered) when it opens and closes, onpractice() when somebody wants to practise */
  constructor(shelf, { keys, remap, chime, oncover, onpractice }) {
    this.#shelf = shelf;
    Object.assign(this, { keys, remap, chime, oncover });
    this.dialog = $("guide");
    for (const dialog of [this.dialog, remap.dialog]) {
      dialog.addEventListener("close", () => oncover(document.querySelector("dialog[open]") !== null));
    }
    this.dialog.addEventListener("close", () => this.#read());
    $("guide-start").addEventListener("click", () => this.dialog.close());
    $("guide-practice").addEventListener("click", () => {
      this.dialog.close();
      onpractice();
    });
    $("guide-keys").addEventListener("click", () => {
      this.dialog.close();
      remap.open();
      oncover(true);
    });
    $("instruction").addEventListener("click", () => this.open());
    $("help").addEventListener("click", () => this.open());
    for (const box of document.querySelectorAll("[data-setting='chime']")) {
      box.addEventListener("change", () => {
        chime.turn(box.checked);
        this.#drawChime();
      });
    }
    this.#drawChime();
  }

  /** What the server says now; the guide opens where its text is not the one that was read last. */
  async hear(news) {
    this.#news = news;
    const version = news.instruction ?? 0; // 0 where nobody has written any
    if (version !== this.#text.version) {
      const words = version ? await call("/api/instruction").then((reply) => reply.text, () => null) : "";
      if (words === null || this.#text.version === version) return; // the next news try again
      this.#text = { version, words };
    }
    setText("instruction", version ? `Instructions, v${version}` : "Instructions");
    if (!document.querySelector("dialog[open]") && this.#shelf.read("read", null) !== version) this.open();
  }

  open() {
    const { version, words } = this.#text;
    const read = this.#shelf.read("read", null);
    $("guide-title").textContent = read === null ? "Before you begin" : read === version ? "How to answer" : "The instructions have changed";
    $("guide-question").textContent = this.#news.settings.question;
    $("guide-text").textContent = words || FOR_ANY_TASK[this.#news.kind];
    $("guide-version").textContent = version ? `Version ${version}; with each answer it is kept which version its teacher had.` : "";
    $("guide-start").textContent = read === null ? "Start" : "Go on";
    this.#drawKeys();
    this.dialog.showModal();
    this.dialog.scrollTop = 0;
    this.oncover(true);
  }

  #read() {
    this.#shelf.write("read", this.#text.version);
  }

  #drawKeys() {
    const entries = Object.entries(ACTIONS).filter(([action]) => !this.keys.resting(action)).flatMap(([action, [words]]) => {
      const keys = this.keys.of(action).filter((key) => key !== null);
      const term = document.createElement("dt");
      term.append(...keys.map((key) => Object.assign(document.createElement("kbd"), { textContent: keyName(key) })));
      return [term, Object.assign(document.createElement("dd"), { textContent: words })];
    });
    $("guide-list").replaceChildren(...entries);
    $("guide-list").classList.toggle("off", !this.keys.on);
    $("guide-off").hidden = this.keys.on;
  }

  #drawChime() {
    for (const box of document.querySelectorAll("[data-setting='chime']")) box.checked = this.chime.on;
  }
}
