"""What a language model reads of a prompt, and what people see of it, which is the same."""

from collections.abc import Sequence

from backflip.lm.models import Causal


def read_of(causal: Causal, prompt: str, most: int, chat: bool = False) -> list[int]:
    """The tokens that are read: the last so many of a prompt and never none, or those of its turn in a dialogue."""
    if chat:
        return causal.tokens(causal.turn(seen(causal, prompt, most)))
    return causal.tokens(prompt)[-most:] or [causal.end]


def seen(causal: Causal, prompt: str, most: int) -> str:
    """The part of a prompt that is read, as text."""
    tokens = causal.tokens(prompt)
    return prompt if len(tokens) <= most else causal.decoded(tokens[-most:])


def cut(causal: Causal, prompts: Sequence[str], most: int) -> str | None:
    """A sentence about the prompts that are too long to be read whole; None where there are none."""
    longer = too_long("prompts", [len(causal.tokens(prompt)) for prompt in prompts], most)
    return longer and f"{longer}: the last {most} are read, and people see no others; --prompt-tokens says how many"


def too_long(what: str, lengths: Sequence[int], most: int) -> str | None:
    """How many of some texts have more tokens than are read, and the longest how many; None where none has."""
    longer = sum(length > most for length in lengths)
    if not longer:
        return None
    return f"{longer:,} of {len(lengths):,} {what} have more than {most} tokens, the longest {max(lengths)}"
