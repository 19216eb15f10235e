// The run page: numbers and curves of what act, ask and fit are doing; asks only for what is new.

import { Chart, element } from "./chart.js";
import { Refused, call, sleep } from "./queue.js";
import { OVER, QUIET_SECONDS, amount, choiceName, duration, isNumber, many } from "./words.js";

const POLL_MS = 2000;
const L2_BAND = [1.1, 1.5]; // fit adjusts ℓ2 to keep the loss ratio within, §2.2.3
const $ = (id) => document.getElementById(id);
const plain = (value) => amount(value, 3);
const percent = (value) => `${Math.round(value * 100)} %`;

const CHARTS = [
  {
    title: "Return of an episode",
    hint: "r̂ on the left axis, in its own units; the true return, where there is one, on the right.",
    empty: "Appears with the policy’s first rollout.",
    format: plain,
    series: [
      { name: "act/predicted_return", label: "predicted", colour: "blue" },
      { name: "act/true_return", label: "true", colour: "green", scale: "right" },
      { name: "act/evaluation", label: "true, without exploration", colour: "orange", scale: "right" },
    ],
  },
  {
    title: "Loss of r̂",
    hint: "Mean nats per comparison; 0.69 is a coin.",
    empty: "Appears with the first fit, once there are answers.",
    format: plain,
    series: [
      { name: "fit/train_loss", label: "training", colour: "blue" },
      { name: "fit/validation_loss", label: "validation", colour: "orange" },
    ],
  },
  {
    title: "Validation / training loss",
    hint: "ℓ2 is adjusted to hold it within the band, 1.1 to 1.5.",
    empty: "Appears with the first fit, once there are answers.",
    format: plain,
    band: L2_BAND,
    range: (_plot, low, high) => [Math.min(1, low ?? 1) - 0.05, Math.max(1.6, high ?? 1.6) + 0.05],
    series: [{ name: "fit/loss_ratio", label: "ratio", colour: "orange" }],
  },
  {
    title: "Answers",
    hint: "Given, and wanted by the schedule.",
    empty: "Appears with the first answers.",
    format: plain,
    series: [
      { name: "ask/labels", label: "given", colour: "blue", steps: true },
      { name: "ask/due", label: "due", colour: "grey", dash: true, steps: true },
    ],
  },
  {
    title: "Disagreement",
    hint: "Variance over members of P̂(left); the pairs asked should lie above their candidates.",
    empty: "Appears with the first pairs that r̂ chooses.",
    format: plain,
    series: [
      { name: "ask/disagreement", label: "asked", colour: "violet" },
      { name: "ask/disagreement_candidates", label: "candidates", colour: "grey" },
    ],
  },
  {
    title: "Agreement with the teacher",
    hint: "Share of decided comparisons, not trained on, that r̂ orders as the teacher did.",
    empty: "Appears with the first fit, once there are answers.",
    format: percent,
    range: (_plot, low) => [Math.min(0.4, (low ?? 0.5) - 0.05), 1.02],
    series: [{ name: "fit/accuracy", label: "accuracy", colour: "green" }],
  },
  {
    title: "Speed",
    hint: "Environment steps per second, everything included.",
    empty: "Appears with the policy’s first rollout.",
    format: plain,
    series: [{ name: "act/steps_per_second", label: "steps/s", colour: "blue" }],
  },
  {
    title: "From answer to reward",
    hint: "Seconds from the newest answer to the r̂ that knows it.",
    empty: "Appears with the first fit, once there are answers.",
    format: (value) => `${amount(value, 2)} s`,
    series: [{ name: "fit/answer_to_reward", label: "delay", colour: "violet" }],
  },
  {
    title: "What the critics expect",
    hint: "Mean value in the last batch, in r̂ discounted by γ. A value that climbs while the return does not is an illusion.",
    empty: "Appears once a policy with a memory learns (preset fast).",
    format: plain,
    series: [{ name: "act/value", label: "value", colour: "blue" }],
  },
  {
    title: "Loss of the critics",
    hint: "It jumps when a new r̂ pays the whole memory anew, and should fall again.",
    empty: "Appears once the policy learns.",
    format: plain,
    series: [{ name: "act/value_loss", label: "loss", colour: "orange" }],
  },
  {
    title: "Exploration",
    hint: "Entropy of the actions in nats; on the right what SAC pays for a nat, to hold the entropy where it should be.",
    empty: "Appears once the policy learns.",
    format: plain,
    series: [
      { name: "act/entropy", label: "entropy", colour: "blue" },
      { name: "act/temperature", label: "temperature", colour: "violet", scale: "right" },
    ],
  },
  {
    title: "Behaviour",
    hint: "What a script counts in whole episodes without exploration: backflips, or the share of steps on one leg.",
    empty: "Only tasks that no reward describes have one, and only where evaluate_steps is set.",
    format: plain,
    series: [{ name: "act/behaviour", label: "behaviour", colour: "green" }],
  },
  {
    title: "Length of an episode",
    hint: "Environment steps until an episode ended, for whatever reason.",
    empty: "Appears with the first episode that ends.",
    format: plain,
    series: [{ name: "act/episode_steps", label: "steps", colour: "green" }],
  },
];

class Page {
  #newest = new Map(); // by metric name: its last value

  constructor() {
    this.position = 0;
    this.charts = CHARTS.map((spec) => new Chart($("charts"), spec));
    for (const button of document.querySelectorAll("[data-axis]")) {
      button.addEventListener("click", () => this.setAxis(button.dataset.axis));
    }
    this.poll();
  }

  setAxis(axis) {
    for (const button of document.querySelectorAll("[data-axis]")) {
      button.setAttribute("aria-pressed", String(button.dataset.axis === axis));
    }
    for (const chart of this.charts) chart.setAxis(axis);
  }

  async poll() {
    for (;;) {
      try {
        this.hear(await call(`/api/run?since=${this.position}`));
      } catch (error) {
        const locked = error instanceof Refused && error.status === 401;
        this.tellState(locked ? "link needed" : "offline", "bad");
      }
      await sleep(POLL_MS);
    }
  }

  hear(report) {
    this.position = report.position;
    if (report.reset) for (const chart of this.charts) chart.clear();
    for (const [name, columns] of Object.entries(report.series)) this.#newest.set(name, columns.value.at(-1));
    for (const chart of this.charts) {
      const news = chart.names.filter((name) => name in report.series);
      for (const name of news) chart.append(name, report.series[name]);
      if (news.length || report.reset) chart.draw();
    }
    this.drawNumbers(report);
    this.drawGiven(report.given);
  }

  // ---- drawing

  tellState(text, kind) {
    setText("state", text);
    $("state").dataset.kind = kind;
  }

  drawNumbers({ settings, name, now, counts, created }) {
    setText("task", settings.task);
    setText("name", [name === settings.task ? "" : name, isNumber(settings.seed) ? `seed ${settings.seed}` : ""].filter(Boolean).join(" · "));
    document.title = `${settings.task || name} · the run`;
    $("to-label").hidden = settings.teacher !== "people";
    this.drawState(now, created);
    this.drawPolicy(now, settings);
    this.drawLabels(counts, now.ask, settings);
    this.drawReward(now.fit, now.act);
  }

  drawState({ run, act, time }, created) {
    const silence = time - (act.time ?? created);
    const quiet = !OVER.includes(run.state) && silence > QUIET_SECONDS;
    if (run.state === "failed") this.tellState("failed", "bad");
    else if (OVER.includes(run.state)) this.tellState(run.state, "idle");
    else if (quiet) this.tellState(`no news for ${duration(silence)}`, "busy");
    else this.tellState(run.state ?? (act.state ? "running" : "starting"), "ok");
    const words = run.message || (quiet ? "The policy says nothing. If its process has ended, “backflip resume” goes on where it was; no answer is lost." : "");
    $("message").hidden = !words;
    setText("message", words);
  }

  drawPolicy({ act, time, run }, settings) {
    // Where people teach, they end the run; the number of steps is a mere bound, with nothing to be read from it.
    const total = settings.teacher === "people" ? null : (act.total_steps ?? settings.steps);
    setText("steps", isNumber(act.steps) ? `${amount(act.steps)}` : "–");
    setText("steps-more", isNumber(total) ? `of ${amount(total)} steps` : isNumber(act.steps) ? "steps so far" : "not started yet");
    $("steps-meter").style.transform = `scaleX(${isNumber(total) && total > 0 ? Math.min(1, (act.steps ?? 0) / total) : 0})`;
    setText("speed", isNumber(act.steps_per_second) ? `${amount(act.steps_per_second)}/s` : "–");
    const left = isNumber(total) ? (total - act.steps) / act.steps_per_second : null;
    const going = !OVER.includes(run.state) && isNumber(left) && left > 0 && time - act.time < QUIET_SECONDS;
    setText("left-time", going ? `${duration(left)} left` : OVER.includes(run.state) ? "over" : "steps");
  }

  drawLabels(counts, ask, settings) {
    setText("labels", amount(counts.labels));
    const facts = [];
    if (isNumber(settings.labels)) facts.push(`of ${amount(settings.labels)}`);
    if (isNumber(ask.due)) facts.push(`${amount(ask.due)} due`);
    facts.push(`${amount(counts.open)} open`);
    const kinds = ["left", "equal", "incomparable", "right"];
    const split = kinds.map((kind) => `${counts[kind]} ${choiceName(kind)}`).join(", ");
    setText("labels-more", facts.join(" · ") + (counts.labels ? ` · ${split}` : ""));
    $("split").setAttribute("aria-label", split);
    for (const kind of kinds) $("split").querySelector(`[data-kind="${kind}"]`).style.flexGrow = counts[kind];
  }

  drawReward(fit, act) {
    const version = fit.version ?? act.reward_version;
    setText("version", isNumber(version) ? `#${version}` : "–");
    const used = isNumber(act.reward_version) && act.reward_version !== version ? ` · policy uses #${act.reward_version}` : "";
    setText("version-more", isNumber(fit.comparisons) ? `from ${many(fit.comparisons, "comparison")}${used}` : "not fitted yet");
    const ratio = this.#newest.get("fit/loss_ratio");
    setText("ratio", isNumber(ratio) ? ratio.toFixed(2) : "–");
    const [low, high] = L2_BAND;
    const where = ratio < low ? "below the band" : ratio > high ? "above the band" : "within 1.1–1.5";
    const losses = [this.#newest.get("fit/validation_loss"), this.#newest.get("fit/train_loss")];
    setText("ratio-more", isNumber(ratio) ? `${where} · ${losses.map((loss) => amount(loss)).join(" / ")}` : "not fitted yet");
    const accuracy = this.#newest.get("fit/accuracy");
    setText("accuracy", isNumber(accuracy) ? percent(accuracy) : "–");
    const apart = [this.#newest.get("ask/disagreement"), this.#newest.get("ask/disagreement_candidates")];
    setText("accuracy-more", isNumber(apart[0]) ? `disagreement ${amount(apart[0], 2)}, of all ${amount(apart[1], 2)}` : "of r̂ with the teacher");
  }

  drawGiven(given) {
    $("given-empty").hidden = given.length > 0;
    $("given").hidden = given.length === 0;
    const body = $("given").tBodies[0];
    const signature = JSON.stringify(given);
    if (signature === this.given) return;
    this.given = signature;
    body.replaceChildren();
    for (const { query, choice, teacher, seconds, predicted_left: left, policy_steps: steps } of given) {
      const row = element("tr", "", body);
      const cells = [query, choiceName(choice), teacher, isNumber(seconds) ? `${seconds.toFixed(1)} s` : "–", predicted(left, choice), amount(steps)];
      for (const words of cells) element("td", "", row).textContent = words;
    }
  }
}

/** What r̂ thought of a pair before the answer. */
function predicted(left, choice) {
  if (!isNumber(left)) return "–";
  const sure = Math.max(left, 1 - left);
  const side = left >= 0.5 ? "left" : "right";
  const surprise = (choice === "left" || choice === "right") && choice !== side && sure > 0.8 ? ", a surprise" : "";
  return `${side} ${percent(sure)}${surprise}`;
}

function setText(id, text) {
  const where = $(id);
  if (where.textContent !== text) where.textContent = text;
}

new Page();
