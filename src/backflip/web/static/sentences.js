// A practice round for a run whose clips are texts and in which nobody has explained any answers yet: five pairs.

import { measured } from "./texts.js";

export const QUESTION = "For practice: which text says more about the weather? If both say as much: which is shorter?";

const PROMPT = "We looked out of the window in the morning.";
const RAIN = " It had rained all night, and a cold wind came from the sea.";

const LESSONS = [
  [RAIN, " Then we had breakfast.", "left", "The left text tells of rain and wind, the right one of breakfast. Where it is clear, one look is enough."],
  [RAIN, RAIN, "equal", "Both texts are the same. Where neither is better, say that they are about the same: that teaches too."],
  [" There was snow, snow, and then more and more of all that snow.", " There was snow.", "right", "Both speak of snow and nothing else, so what the question asks next decides: the right one is shorter."],
  [" The neighbour, who is called Ann, has two dogs, three cats, and a brother who lives in a large house by the river.", " It was foggy.", "right", "The left text is longer, but says nothing about the weather. Judge what was asked for, not how much there is."],
  [" Qorva tel minna, suro vek talin.", " Belu sorin karra, ott vei lun.", "incomparable", "Nobody can read either. What you do not understand you cannot compare: say that you can’t tell rather than guess."],
];

/** The round, each pair ready to be shown. */
export function sentenceLessons() {
  const text = (completion) => measured({ mime: "text/plain", prompt: PROMPT, completion });
  return LESSONS.map(([left, right, answer, why]) => ({ left: text(left), right: text(right), answer, why }));
}
