// Export: what can be taken home, and with which command.

import { button, element, toast } from "./elements.js";

const COMMANDS = [
  ["All answers and segments, for another run", "backflip export RUN --events answers.jsonl", "and backflip import OTHER answers.jsonl brings them in"],
  ["A table that Hugging Face’s datasets reads", "backflip export RUN --preferences preferences.parquet"],
  ["Episodes as a Minari dataset, with the answers pointing into them", "backflip export RUN --minari mine/hopper-v0"],
  ["The newest r̂ with a page about it", "backflip export RUN --card card --licence cc-by-4.0"],
  ["One clip as a film", "backflip export RUN --clip 12 --video clip.mp4"],
  ["The same run again, with another seed", "backflip train --like RUN --seed 2"],
];
const FILES = [
  ["events", "Every event", "All that was ever answered, undone, skipped or flagged, with what r̂ had predicted: one JSON object a line, oldest first."],
  ["preferences", "Answers that count", "What stands now, with µ: 1 for left, 0.5 for the same, 0 for right, null for can’t tell. Left and right are numbers of segments."],
];

export class Exports {
  #commands;
  #run = "";

  constructor(panel) {
    const files = element("article", "card sheet", panel);
    element("h2", "", files, "Download");
    const list = element("div", "downloads", files);
    this.links = FILES.map(([name, title, about]) => {
      const card = element("div", "download", list);
      const link = element("a", "button strong", card, title);
      link.download = "";
      element("p", "hint", card, about);
      return [name, link];
    });
    const label = element("label", "check", files);
    this.nameless = element("input", "", label);
    this.nameless.type = "checkbox";
    this.nameless.addEventListener("change", () => this.#aim());
    element("span", "", label, "without names: annotator-1, annotator-2 …");
    this.#aim();
    const shell = element("article", "card sheet", panel);
    element("h2", "", shell, "In a terminal");
    element("p", "hint", shell, "Segments, r̂ and films are too large for a page; these commands write them where the run directory is.");
    this.#commands = element("div", "commands", shell);
  }

  #aim() {
    const names = this.nameless.checked ? "?names=false" : "";
    for (const [name, link] of this.links) link.href = `/api/${name}.jsonl${names}`;
  }

  hear({ path }) {
    if (path === this.#run) return;
    this.#run = path;
    this.#commands.replaceChildren();
    for (const [title, command, more] of COMMANDS) {
      const row = element("div", "command", this.#commands);
      element("h3", "", row, title);
      const line = element("div", "line", row);
      const code = element("code", "", line, command.replace("RUN", quoted(path)));
      code.tabIndex = 0;
      button(line, "copy", () => copy(code), "plain");
      if (more) element("p", "hint", row, more);
    }
  }
}

const quoted = (name) => (/^[\w./-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

/** Into the clipboard; on plain http from another machine there is none, and the words are selected instead. */
async function copy(code) {
  getSelection().selectAllChildren(code);
  if (navigator.clipboard === undefined) toast("Selected; Ctrl-C copies it.");
  else await navigator.clipboard.writeText(code.textContent).then(() => toast("Copied."), () => toast("Selected; Ctrl-C copies it."));
}
