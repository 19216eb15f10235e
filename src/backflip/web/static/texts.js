// Clips that are read: two texts beside each other, what both begin with once above them, and how long they are.
// Whatever a model wrote is put in as text, never as markup, and cannot reach out of its own box.

import { isNumber, many } from "./words.js";

const NOTHING = "(nothing)";
const WHITE = "(only white space)";
const INVISIBLE = /(?![\t\n\r\u200c\u200d])[\p{Cc}\p{Cf}]/gu; // joiners are part of how some scripts are written

export const isText = (clip) => clip.mime === "text/plain";

/** A text with what is to be said about its length. */
export function measured(clip) {
  const { completion } = clip;
  return {
    ...clip,
    words: completion.match(/\S+/gu)?.length ?? 0,
    characters: Array.from(completion).length,
    invisible: completion.match(INVISIBLE)?.length ?? 0,
  };
}

/** Put a text into an element; what it goes on from before it, if that is wanted. */
export function write(parent, { prompt, completion }, withPrompt) {
  const parts = [];
  if (withPrompt && prompt) parts.push(isolated("given", prompt));
  if (completion.trim() !== "") parts.push(isolated("completion", completion));
  else parts.push(isolated("none", completion === "" ? NOTHING : WHITE));
  parent.replaceChildren(...parts);
}

function isolated(kind, text) {
  const made = document.createElement("span"); // it may stand in a button
  made.className = kind;
  made.dir = "auto";
  made.textContent = text;
  return made;
}

/** "23 words (+5) · 130 characters (+31)": by how much it is longer than the other. */
function lengthWords(text, other) {
  const more = (what) => (isNumber(other[what]) && text[what] > other[what] ? ` (+${text[what] - other[what]})` : "");
  const said = [`${many(text.words, "word")}${more("words")}`, `${many(text.characters, "character")}${more("characters")}`];
  if (text.invisible) said.push(`${text.invisible} of them invisible`);
  return said.join(" · ");
}

/** The figures of two clips, while these are texts. */
export class Texts {
  #sides;
  #prompt;

  constructor(figures, prompt) {
    this.#prompt = prompt;
    this.#sides = figures.map((figure) => {
      const box = document.createElement("div");
      box.className = "passage";
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", figure.querySelector("canvas").getAttribute("aria-label").replace("clip", "text"));
      const length = document.createElement("figcaption");
      figure.append(box, length);
      return { figure, box, length };
    });
    const watch = new ResizeObserver(() => this.#fit()); // also when they come into sight
    for (const one of [prompt, ...this.#sides.map((side) => side.box)]) watch.observe(one);
  }

  /** Show two texts from their beginning. */
  show(texts) {
    const shared = texts[0].prompt === texts[1].prompt;
    this.#prompt.hidden = !shared || texts[0].prompt === "";
    this.#prompt.replaceChildren(isolated("given", shared ? texts[0].prompt : ""));
    this.#sides.forEach(({ figure, box, length }, i) => {
      figure.classList.add("read");
      write(box, texts[i], !shared);
      box.scrollTop = 0;
      length.textContent = lengthWords(texts[i], texts[1 - i]);
    });
    this.#fit();
  }

  /** Show none. */
  clear() {
    this.#prompt.hidden = true;
    for (const { figure, box } of this.#sides) {
      figure.classList.remove("read");
      box.replaceChildren();
    }
  }

  /** Boxes with more than they show can be scrolled, by finger and by keys; over the others a swipe answers. */
  #fit() {
    for (const box of [this.#prompt, ...this.#sides.map((side) => side.box)]) {
      const scrolls = box.scrollHeight > box.clientHeight + 1;
      box.classList.toggle("scrolls", scrolls);
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
    this.#prompt.scrollTop = this.#prompt.scrollHeight; // the texts go on from its end
  }
}
