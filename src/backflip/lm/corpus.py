"""Film reviews made up from a grammar: what the small model is trained on, and how prompts begin."""

import numpy as np

_KINDS = [
    "film",
    "thriller",
    "comedy",
    "drama",
    "western",
    "sequel",
    "documentary",
    "musical",
    "romance",
    "horror film",
]
_WHERE = ["last night", "on a long flight", "with my sister", "at a festival", "on a rainy Sunday", "twice this week"]
_WHO = [
    "the lead actor",
    "the director",
    "the young cast",
    "the villain",
    "the writer",
    "the whole crew",
    "the composer",
]
_WHAT = [
    "the story",
    "the music",
    "the ending",
    "the dialogue",
    "the camera work",
    "the first act",
    "the humour",
    "the pace",
]
_GOOD = [
    "wonderful", "brilliant", "charming", "lovely", "funny", "beautiful", "delightful", "clever", "warm", "superb",
    "touching", "fresh", "great", "excellent", "exciting",
]  # fmt: skip
_BAD = [
    "terrible", "boring", "awful", "dull", "stupid", "horrible", "weak", "annoying", "sad", "ugly", "painful", "poor",
    "bad", "dreadful", "lazy",
]  # fmt: skip
_PLAIN = [
    "long", "short", "quiet", "loud", "old", "simple", "dark", "usual", "slow", "quick", "strange", "small", "plain",
    "ordinary", "blue",
]  # fmt: skip
_OPENINGS = [
    "I watched this {kind} {where} and",
    "My friends told me about this {kind}, so",
    "This {kind} begins in a small town, and",
    "After ten minutes of this {kind}",
    "Nobody expected much from this {kind}, but",
    "What can I say about this {kind}?",
    "We went to see the {kind} {where}.",
    "It is the third {kind} by the same people, and",
    "In this {kind} {who} plays a teacher, and",
    "When I think of this {kind}",
]
_MIDDLES = [
    "{what} is {how}",
    "I found {what} {how}",
    "{what} was {how} and {how2}",
    "{who} is {how}",
    "{what} felt {how} to me",
    "I thought {what} was rather {how}",
    "{what} seemed {how}, {who} was {how2}",
    "for me {what} stayed {how}",
]
_GOOD_ENDS = [
    "I loved it.", "I would happily see it again.", "It made me smile.", "I recommend it to everybody.",
    "We enjoyed every minute.", "It is a joy to watch.", "It was the best evening of the week.",
]  # fmt: skip
_BAD_ENDS = [
    "I hated it.", "I wanted to leave.", "What a waste of time.", "It made me angry.", "We regret the evening.",
    "It is a failure.", "I was glad when it was over.",
]  # fmt: skip
_PLAIN_ENDS = [
    "It lasts two hours.", "We took the bus home.", "I have seen it once.", "The cinema was half full.",
    "It was made in the north.", "There is a second part.", "I read the book before.",
]  # fmt: skip


def opening(rng: np.random.Generator) -> str:
    """How a review begins."""
    return _filled(_pick(rng, _OPENINGS), rng, 0.5)


def openings(count: int, seed: int = 0) -> list[str]:
    """Different beginnings of reviews."""
    rng = np.random.default_rng([seed, 1])
    found: dict[str, None] = {}
    for _ in range(100 * count):
        found[opening(rng)] = None
        if len(found) == count:
            break
    return list(found)


def review(rng: np.random.Generator) -> str:
    """A review of some sentences; how it judges goes from sentence to sentence, around a tone of its own."""
    tone = float(rng.uniform(0.15, 0.85))
    sentences = [f"{opening(rng)} {_filled(_pick(rng, _MIDDLES), rng, tone)}."]
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.55:
            middle = _filled(_pick(rng, _MIDDLES), rng, tone)
            sentences.append(middle[0].upper() + middle[1:] + ".")
        else:
            sentences.append(_pick(rng, _by_tone(rng, tone, _GOOD_ENDS, _BAD_ENDS, _PLAIN_ENDS)))
    return " ".join(sentences)


def reviews(count: int, seed: int = 0) -> list[str]:
    """Many reviews."""
    rng = np.random.default_rng([seed, 2])
    return [review(rng) for _ in range(count)]


def _filled(template: str, rng: np.random.Generator, tone: float) -> str:
    first, second = (_pick(rng, _by_tone(rng, tone, _GOOD, _BAD, _PLAIN)) for _ in range(2))
    return template.format(
        kind=_pick(rng, _KINDS), where=_pick(rng, _WHERE), who=_pick(rng, _WHO), what=_pick(rng, _WHAT),
        how=first, how2=second,
    )  # fmt: skip


def _by_tone(rng: np.random.Generator, tone: float, good: list[str], bad: list[str], plain: list[str]) -> list[str]:
    if rng.random() < 0.35:
        return plain
    return good if rng.random() < tone else bad


def _pick(rng: np.random.Generator, among: list[str]) -> str:
    return among[int(rng.integers(len(among)))]
