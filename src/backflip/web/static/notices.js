// What the labelling page says where there is no pair to show, and in its corners.

import { Later, Refused } from "./calls.js";
import { NotYet } from "./clips.js";
import { QUIET_SECONDS, amount, duration, isNumber, many } from "./words.js";

const ENDS = { finished: "The run is finished", stopped: "The run has been stopped", failed: "The run has failed" };

export function overWords({ now: { run } }, waiting) {
  const why = run.message ? `${run.message}. `.replace(/\.\. $/, ". ") : "";
  const saved = waiting ? `${many(waiting, "answer")} of yours ${waiting === 1 ? "is" : "are"} still on the way; leave the page open.` : "every answer of yours is saved.";
  return [ENDS[run.state], `${why}Thank you: ${saved} If the run goes on, so does this page, by itself.`];
}

export function lostWords(error) {
  if (isLockedOut(error)) {
    const why = error.status === 403 ? error.message : "Open the link that backflip printed, or the one you were invited with.";
    return ["This page needs its link again", `${why} Answers that were not sent yet are kept in this browser.`];
  }
  if (error instanceof Later) return ["One moment", "The server has much to do just now. The page goes on by itself; answers that were not sent yet are kept in this browser."];
  if (error instanceof NotYet) return ["One moment", "This browser cannot draw the clips itself (WebGL is off or missing), so the run draws them. The page goes on by itself."];
  return ["The server does not answer", "Answers that were not sent yet are kept in this browser. The page goes on by itself as soon as the server is back."];
}

/** Whether another link is needed. */
export const isLockedOut = (error) => error instanceof Refused && [401, 403].includes(error.status);

/** Where as much was answered as is wanted of this person, or of all; null elsewhere. */
export function enoughWords({ you, counts, settings }) {
  if (isNumber(you.quota) && you.given >= you.quota) {
    return ["That was all; thank you", `You have given ${many(you.given, "answer")}, as many as were asked of you. If more are wanted, the page goes on by itself.`];
  }
  if (isNumber(settings.labels) && counts.labels - counts.incomparable >= settings.labels) {
    return ["All answers are given; thank you", `There are ${many(counts.labels, "answer")}, as many as this run wants. The agent goes on learning from them; nothing more will be asked.`];
  }
  return null;
}

export function waitingWords({ you, counts, now, settings, undrawn, kind }) {
  const enough = enoughWords({ you, counts, settings });
  if (enough !== null) return enough;
  const [one, several, made] = kind === "texts" ? ["text", "texts", "made ready"] : ["clip", "clips", "drawn"];
  const title = `The agent is making new ${several}…`;
  const silence = isNumber(now.act.time) ? now.time - now.act.time : 0;
  if (silence > QUIET_SECONDS) {
    return [title, `Nothing has been heard of it for ${duration(silence)}; whoever runs it should look. The page goes on by itself as soon as there are pairs.`];
  }
  if (undrawn > 0) return [title, `${many(undrawn, one)} of the next pairs ${undrawn === 1 ? "is" : "are"} being ${made}. The page goes on by itself.`];
  if (counts.asked === 0) return [title, "It is trying things out for the first time; the first pairs come as soon as it has done enough to compare. The page goes on by itself."];
  if (isNumber(now.ask.due) && counts.labels >= now.ask.due) {
    return ["Nothing to ask right now", `There are ${many(counts.labels, "answer")}, all that the schedule wants so far. It asks again when the policy has learned from them; the page goes on by itself.`];
  }
  return [title, "You have answered everything there is. New pairs come as the policy tries new things; the page goes on by itself."];
}

/** What the answers have led to: nothing about what r̂ makes of any clip. */
export function learnedWords({ now: { fit, time } }) {
  if (fit.state !== "fitting" || !isNumber(fit.comparisons)) return "Nothing has been learned from the answers yet; it begins after the first few.";
  const ago = isNumber(fit.time) ? time - fit.time : null;
  const when = ago !== null ? `, last ${ago < 2 ? "just now" : `${duration(ago)} ago`}` : "";
  return `The agent has learned from ${amount(fit.comparisons)} of the answers so far${when}.`;
}
