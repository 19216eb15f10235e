// The first tab: how far the policy, the answers and r̂ are, in numbers.

import { OVER, QUIET_SECONDS, amount, choiceName, duration, isNumber, many } from "../words.js";
import { L2_BAND, percent } from "./curves.js";
import { byId, tell } from "./elements.js";

const say = (id, text) => tell(byId(id), text);

export class Overview {
  constructor(curves) {
    this.curves = curves;
  }

  hear({ settings, now, counts, kind }) {
    this.#policy(now, settings, kind === "texts" ? "completions" : "steps");
    this.#labels(counts, now.ask, settings);
    this.#reward(now.fit, now.act);
  }

  #policy({ act, time, run }, settings, steps) {
    // Where people teach, they end the run; the number of steps is a mere bound, with nothing to be read from it.
    const total = settings.teacher === "people" ? null : (act.total_steps ?? settings.steps);
    say("steps", isNumber(act.steps) ? `${amount(act.steps)}` : "–");
    say("steps-more", isNumber(total) ? `of ${amount(total)} ${steps}` : isNumber(act.steps) ? `${steps} so far` : "not started yet");
    byId("steps-meter").style.transform = `scaleX(${isNumber(total) && total > 0 ? Math.min(1, (act.steps ?? 0) / total) : 0})`;
    say("speed", isNumber(act.steps_per_second) ? `${amount(act.steps_per_second)}/s` : "–");
    const left = isNumber(total) ? (total - act.steps) / act.steps_per_second : null;
    const going = !OVER.includes(run.state) && isNumber(left) && left > 0 && time - act.time < QUIET_SECONDS;
    say("left-time", going ? `${duration(left)} left` : OVER.includes(run.state) ? "over" : steps);
  }

  #labels(counts, ask, settings) {
    say("labels", amount(counts.labels));
    const facts = [];
    if (isNumber(settings.labels)) facts.push(`of ${amount(settings.labels)}`);
    if (isNumber(ask.due)) facts.push(`${amount(ask.due)} due`);
    facts.push(`${amount(counts.open)} open`);
    const kinds = ["left", "equal", "incomparable", "right"];
    const split = kinds.map((kind) => `${counts[kind]} ${choiceName(kind)}`).join(", ");
    say("labels-more", facts.join(" · ") + (counts.labels ? ` · ${split}` : ""));
    byId("split").setAttribute("aria-label", split);
    for (const kind of kinds) byId("split").querySelector(`[data-kind="${kind}"]`).style.flexGrow = counts[kind];
  }

  #reward(fit, act) {
    const version = fit.version ?? act.reward_version;
    say("version", isNumber(version) ? `#${version}` : "–");
    const used = act.reward_version > 0 && act.reward_version !== version ? ` · policy uses #${act.reward_version}` : "";
    say("version-more", isNumber(fit.comparisons) ? `from ${many(fit.comparisons, "comparison")}${used}` : "not fitted yet");
    const newest = (name) => this.curves.newest(name);
    const ratio = newest("fit/loss_ratio");
    say("ratio", isNumber(ratio) ? ratio.toFixed(2) : "–");
    const [low, high] = L2_BAND;
    const where = ratio < low ? "below the band" : ratio > high ? "above the band" : "within 1.1–1.5";
    const losses = [newest("fit/validation_loss"), newest("fit/train_loss")];
    say("ratio-more", isNumber(ratio) ? `${where} · ${losses.map((loss) => amount(loss)).join(" / ")}` : "not fitted yet");
    const fresh = newest("ask/agreement");
    const held = newest("fit/accuracy");
    say("accuracy", isNumber(fresh) ? percent(fresh) : "–");
    say("accuracy-more", `on fresh pairs${isNumber(fresh) ? "" : ": none yet"}${isNumber(held) ? ` · ${percent(held)} held out` : ""}`);
  }
}
