// The run page: what act, ask and fit are doing, and what people said; it asks only for what is new.

import { Refused, call, callAs, sleep } from "../calls.js";
import { OVER, QUIET_SECONDS, duration, isNumber } from "../words.js";
import { Annotators } from "./annotators.js";
import { Curves } from "./curves.js";
import { byId, tell } from "./elements.js";
import { Exports } from "./export.js";
import { Gallery } from "./gallery.js";
import { Labels } from "./labels.js";
import { Overview } from "./overview.js";
import { PairList } from "./pairs.js";
import { Reward } from "./reward.js";
import { Tabs } from "./tabs.js";

const POLL_MS = 2000;
const TABLES_MS = 10000; // how often the panel in front looks for more than the report has

class Page {
  #live = true;
  #awake = () => {}; // ends a pause
  #refreshed = 0;

  constructor() {
    this.position = 0;
    this.mark = "";
    const parents = { overview: byId("overview-charts"), labels: byId("label-charts"), reward: byId("reward-charts") };
    this.curves = new Curves(parents);
    const pairs = new PairList(byId("panel-pairs"));
    this.panels = {
      overview: new Overview(this.curves),
      labels: new Labels(parents.labels),
      reward: new Reward(parents.reward),
      clips: new Gallery(byId("panel-clips")),
      pairs,
      annotators: new Annotators(byId("panel-annotators"), (name) => {
        pairs.of(name);
        location.hash = "#/pairs";
      }),
      export: new Exports(byId("panel-export")),
    };
    for (const one of document.querySelectorAll("[data-axis]")) one.addEventListener("click", () => this.#setAxis(one.dataset.axis));
    byId("live").addEventListener("click", () => this.#setLive(!this.#live));
    byId("alarm-more").open = !matchMedia("(max-width: 640px)").matches;
    new Tabs(document.querySelector("[role=tablist]"), (name) => this.#front(name)).begin();
    this.#poll();
  }

  #front(name) {
    this.front = name;
    byId("axis").hidden = !["overview", "labels", "reward"].includes(name);
    this.#refresh();
  }

  #setAxis(axis) {
    for (const one of document.querySelectorAll("[data-axis]")) one.setAttribute("aria-pressed", String(one.dataset.axis === axis));
    this.curves.setAxis(axis);
  }

  #setLive(live) {
    this.#live = live;
    byId("live").setAttribute("aria-pressed", String(live));
    byId("live").title = live ? "Pause the updates" : "Go on with the updates";
    tell(byId("live").querySelector("span"), live ? "live" : "paused");
    if (live) this.#awake();
  }

  async #poll() {
    for (;;) {
      if (!this.#live) await new Promise((resolve) => { this.#awake = resolve; });
      try {
        const report = await call(`/api/run?since=${this.position}&mark=${this.mark}`);
        callAs(report.you);
        if (this.#live) this.#hear(report);
      } catch (error) {
        const locked = error instanceof Refused && [401, 403].includes(error.status);
        this.#tellState(locked ? "link needed" : "offline", "bad");
      }
      await sleep(POLL_MS);
    }
  }

  #hear(report) {
    this.position = report.position;
    this.mark = report.mark;
    this.curves.hear(report);
    this.#drawHeader(report);
    this.#drawAlarm(report.now.alarm);
    for (const panel of Object.values(this.panels)) panel.hear(report);
    if (performance.now() - this.#refreshed > TABLES_MS) this.#refresh();
  }

  async #refresh() {
    this.#refreshed = performance.now();
    await this.panels[this.front].refresh?.();
  }

  // ---- above the panels

  #tellState(text, kind) {
    tell(byId("state"), text);
    byId("state").dataset.kind = kind;
  }

  #drawHeader({ settings, name, now, created, kind }) {
    if (kind === "texts") {
      tell(byId("tab-clips"), "Completions");
      tell(byId("alarm-clips"), "The completions that r̂ pays most");
    }
    tell(byId("task"), settings.task || name);
    tell(byId("name"), [name === settings.task ? "" : name, isNumber(settings.seed) ? `seed ${settings.seed}` : ""].filter(Boolean).join(" · "));
    document.title = `${settings.task || name} · the run`;
    byId("to-label").hidden = settings.teacher !== "people";
    const { run, act, time } = now;
    const silence = time - (act.time ?? created);
    const quiet = !OVER.includes(run.state) && silence > QUIET_SECONDS;
    if (run.state === "failed") this.#tellState("failed", "bad");
    else if (OVER.includes(run.state)) this.#tellState(run.state, "idle");
    else if (quiet) this.#tellState(`no news for ${duration(silence)}`, "busy");
    else this.#tellState(run.state ?? (act.state ? "running" : "starting"), "ok");
    const words = run.message || (quiet ? "The policy says nothing. If its process has ended, “backflip resume” goes on where it was; no answer is lost." : "");
    byId("message").hidden = !words;
    tell(byId("message"), words);
  }

  #drawAlarm({ on, sentence, advice }) {
    byId("alarm").hidden = !on;
    tell(byId("alarm-sentence"), sentence ?? "");
    tell(byId("alarm-advice"), advice ?? "");
  }
}

new Page();
