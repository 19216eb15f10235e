"""What a person can mend, and words from outside in what is said of it."""

from typing import Any, get_args


class Mendable(Exception):
    """Something that a person can mend; the message is one sentence that says what was wrong and what to do.

    The command line prints the sentence alone and exits with 2, wherever in a run it was raised.
    """


def in_one_line(words: object, most: int) -> str:
    """Words from outside as part of a sentence: at most so many characters, none that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in str(words))[:most].strip()


def must_be_one_of(kinds: Any, **values: object) -> None:
    """See that settings are among the words of a Literal.

    Raises:
        ValueError: one is not.
    """
    for name, value in values.items():
        if value not in get_args(kinds):
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, get_args(kinds)))}")
