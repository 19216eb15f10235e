// Which curves there are, under which tab, and what each of them means.

import { amount, isNumber } from "../words.js";
import { Chart } from "./chart.js";

export const L2_BAND = [1.1, 1.5]; // fit adjusts ℓ2 to keep the loss ratio within, §2.2.3
const plain = (value) => amount(value, 3);
export const percent = (value) => `${Math.round(value * 100)} %`;
const fromHalf = (_plot, low) => [Math.min(0.4, (low ?? 0.5) - 0.05), 1.02];
export const SINCE_REWARD = "Appears with the first answers to pairs that were asked since there is an r̂.";
const FIRST_FIT = "Appears with the first fit, once there are answers.";

const AGREEMENT = {
  title: "Agreement on fresh pairs",
  hint: "Share of the newest answers that r̂ had foreseen when it asked, and what it expected to foresee. None of them was trained on.",
  empty: SINCE_REWARD,
  format: percent,
  range: fromHalf,
  series: [
    { name: "ask/agreement", label: "foreseen", colour: "green" },
    { name: "ask/confidence", label: "expected", colour: "grey", dash: true },
  ],
};
const ANSWERS = {
  title: "Answers",
  hint: "Given; and where a schedule decides, wanted by it.",
  empty: "Appears with the first pairs.",
  format: plain,
  series: [
    { name: "ask/labels", label: "given", colour: "blue", steps: true },
    { name: "ask/due", label: "due", colour: "grey", dash: true, steps: true },
  ],
};

const OVERVIEW = [
  {
    title: "Return of an episode",
    hint: "r̂ on the left axis, in its own units; the true return, where there is one, on the right.",
    empty: "Appears when the policy is measured first since there is an r̂, or with the first true return.",
    format: plain,
    series: [
      { name: "act/predicted_return", label: "predicted", colour: "blue" },
      { name: "act/true_return", label: "true", colour: "green", scale: "right" },
      { name: "act/evaluation", label: "true, without exploration", colour: "orange", scale: "right" },
    ],
  },
  AGREEMENT,
  ANSWERS,
  {
    title: "Behaviour",
    hint: "What a script counts in whole episodes without exploration: backflips, or the share of steps on one leg.",
    rare: true,
    format: plain,
    series: [{ name: "act/behaviour", label: "behaviour", colour: "green" }],
  },
  {
    title: "Length of an episode",
    hint: "Environment steps until an episode ended, for whatever reason.",
    rare: true,
    format: plain,
    series: [{ name: "act/episode_steps", label: "steps", colour: "green" }],
  },
  {
    title: "Speed",
    hint: "Environment steps, or completions, per second, everything included.",
    empty: "Appears when the policy is measured first.",
    format: plain,
    series: [{ name: "act/steps_per_second", label: "steps/s", colour: "blue" }],
  },
  {
    title: "Distance from the original",
    hint: "Nats of KL to the original that a completion costs, over the whole vocabulary; on the right β, the price of a nat.",
    rare: true,
    format: plain,
    series: [
      { name: "act/kl_exact", label: "KL", colour: "blue" },
      { name: "act/beta", label: "β", colour: "violet", scale: "right" },
    ],
  },
  {
    title: "What the critics expect",
    hint: "Mean value in the last batch, in r̂ discounted by γ. A value that climbs while the return does not is an illusion.",
    rare: true,
    format: plain,
    series: [{ name: "act/value", label: "value", colour: "blue" }],
  },
  {
    title: "Loss of the critics",
    hint: "It jumps when a new r̂ pays the whole memory anew, and should fall again.",
    rare: true,
    format: plain,
    series: [{ name: "act/value_loss", label: "loss", colour: "orange" }],
  },
  {
    title: "Exploration",
    hint: "Entropy of the actions in nats; on the right what SAC pays for a nat, to hold the entropy where it should be.",
    rare: true,
    format: plain,
    series: [
      { name: "act/entropy", label: "entropy", colour: "blue" },
      { name: "act/temperature", label: "temperature", colour: "violet", scale: "right" },
    ],
  },
];

const LABELS = [
  ANSWERS,
  {
    title: "Open pairs",
    hint: "Pairs that wait for an answer. Where people teach, the buffer should not run dry.",
    empty: "Appears with the first pairs.",
    format: plain,
    series: [{ name: "ask/open_queries", label: "open", colour: "violet", steps: true }],
  },
];

const REWARD = [
  {
    title: "Loss of r̂",
    hint: "Mean nats per comparison; 0.69 is a coin. Fresh pairs are those just answered, as predicted when they were asked.",
    empty: FIRST_FIT,
    format: plain,
    series: [
      { name: "fit/train_loss", label: "training", colour: "blue" },
      { name: "fit/validation_loss", label: "validation", colour: "orange" },
      { name: "ask/surprise", label: "on fresh pairs", colour: "green" },
    ],
  },
  {
    title: "Validation / training loss",
    hint: "ℓ2 is adjusted to hold it within the band, 1.1 to 1.5.",
    empty: FIRST_FIT,
    format: plain,
    band: L2_BAND,
    range: (_plot, low, high) => [Math.min(1, low ?? 1) - 0.05, Math.max(1.6, high ?? 1.6) + 0.05],
    series: [{ name: "fit/loss_ratio", label: "ratio", colour: "orange" }],
  },
  {
    title: "ℓ2",
    hint: "Mean over members of the coefficient; above the band it grows, below it shrinks.",
    empty: FIRST_FIT,
    format: plain,
    series: [{ name: "fit/l2", label: "ℓ2", colour: "violet" }],
  },
  AGREEMENT,
  {
    title: "Held-out accuracy",
    hint: "Share of decided comparisons, among those a member was not trained on, that r̂ orders as the teacher did.",
    empty: FIRST_FIT,
    format: percent,
    range: fromHalf,
    series: [{ name: "fit/accuracy", label: "accuracy", colour: "green" }],
  },
  {
    title: "Disagreement",
    hint: "Variance over members of P̂(left); the pairs asked should lie above their candidates.",
    empty: "Appears with the first pairs that are asked since there is an r̂.",
    format: plain,
    series: [
      { name: "ask/disagreement", label: "asked", colour: "violet" },
      { name: "ask/disagreement_candidates", label: "candidates", colour: "grey" },
    ],
  },
  {
    title: "Comparisons",
    hint: "Size of D: the answers that r̂ is fitted to. “Can’t tell” is not among them.",
    empty: FIRST_FIT,
    format: plain,
    series: [{ name: "fit/comparisons", label: "comparisons", colour: "blue", steps: true }],
  },
  {
    title: "From answer to reward",
    hint: "Seconds from the newest answer to the r̂ that knows it.",
    rare: true,
    format: (value) => `${amount(value, 2)} s`,
    series: [{ name: "fit/answer_to_reward", label: "delay", colour: "violet" }],
  },
];

/** All charts of the page, each in the panel where it belongs. */
export class Curves {
  #newest = new Map(); // by metric name: its last value

  constructor(parents) {
    const groups = [[parents.overview, OVERVIEW], [parents.labels, LABELS], [parents.reward, REWARD]];
    this.charts = groups.flatMap(([parent, specs]) => specs.map((spec) => new Chart(parent, copied(spec))));
  }

  setAxis(axis) {
    for (const chart of this.charts) chart.setAxis(axis);
  }

  /** Take in what was measured since the last report. */
  hear({ series, reset }) {
    if (reset) {
      this.#newest.clear();
      for (const chart of this.charts) chart.clear();
    }
    for (const [name, columns] of Object.entries(series)) this.#newest.set(name, columns.value.at(-1));
    for (const chart of this.charts) {
      const news = chart.names.filter((name) => name in series);
      for (const name of news) chart.append(name, series[name]);
      if (news.length || reset) chart.draw();
    }
  }

  /** The last value of a metric, if there is one and it is a number. */
  newest(name) {
    const value = this.#newest.get(name);
    return isNumber(value) ? value : undefined;
  }
}

const copied = (spec) => ({ ...spec, series: spec.series.map((series) => ({ ...series })) }); // a chart keeps its key in them
