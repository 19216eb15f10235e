"""What a person can mend, and words from outside in what is said of it."""

from dataclasses import fields
from numbers import Real
from types import UnionType
from typing import Any, get_args


class Mendable(Exception):
    """Something that a person can mend; the message is one sentence that says what was wrong and what to do.

    The command line prints the sentence alone and exits with 2, wherever in a run it was raised.
    """


def in_one_line(words: object, most: int) -> str:
    """Words from outside as part of a sentence: at most so many characters, none that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in str(words))[:most].strip()


def plain_numbers(settings: Any) -> None:
    """Make plain numbers of what settings have as numpy's, and whole ones of floats such as 3e5.

    Raises:
        ValueError: something is no number where one is needed.
    """
    for field in fields(settings):
        value: Any = getattr(settings, field.name)
        kinds = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
        if not {int, float} & set(kinds) or (value is None and type(None) in kinds):
            continue
        whole = float not in kinds
        is_number = isinstance(value, Real) and not isinstance(value, bool) and value == value
        if not is_number or (whole and value % 1 != 0):
            needed = "a whole number" if whole else "a number"
            raise ValueError(f"{field.name} is {value!r}; it must be {needed}")
        object.__setattr__(settings, field.name, int(value) if whole else float(value))


def must_be_one_of(kinds: Any, **values: object) -> None:
    """See that settings are among the words of a Literal.

    Raises:
        ValueError: one is not.
    """
    for name, value in values.items():
        if value not in get_args(kinds):
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, get_args(kinds)))}")
