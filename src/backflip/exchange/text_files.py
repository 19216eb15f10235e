"""Pairs of texts as other programs keep them: TRL's preferences, HH-RLHF's dialogues, and best-of-four labels."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backflip.exchange.bundle import ExchangeError, Outgoing, written_whole
from backflip.exchange.events import MOST_EVENTS, MOST_LINE_BYTES, line
from backflip.preferences import Choice
from backflip.texts import Text, are_texts, unpack_text

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
TIES = ".ties.jsonl"
SAMPLES = 4
MOST_ARRAY_BYTES = 2**28
LONGEST_TEACHER = 200
LOOKED_AT = 20
"""Lines that are looked at to tell what a file holds."""

Decode = Callable[[list[int]], str]
"""From tokens to text."""


@dataclass(frozen=True)
class Judged:
    """A pair of texts and what somebody said about it."""

    where: str
    left: Text
    right: Text
    choice: Choice
    teacher: str


@dataclass(frozen=True)
class Found:
    """What a file holds."""

    judged: list[Judged] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    """Why a line could not be read, with its file and number."""


def write_trl(path: Path, outgoing: Outgoing) -> list[Path]:
    """Write `prompt`, `chosen` and `rejected` of every decided answer that stands, and ties into a file beside it.

    Raises:
        ExchangeError: the run's segments are no texts, or a file cannot be written.
    """
    decided, ties = [], []
    for one in _standing(outgoing):
        prompts = {one.left.prompt, one.right.prompt}
        shared = {"prompt": one.left.prompt} if len(prompts) == 1 else {}
        left, right = (text.completion if shared else text.prompt + text.completion for text in (one.left, one.right))
        if one.choice is Choice.EQUAL:
            ties.append({**shared, "first": left, "second": right, "teacher": one.teacher})
        else:
            chosen, rejected = (left, right) if one.choice is Choice.LEFT else (right, left)
            side = {"chosen_side": one.choice.value, "teacher": one.teacher}
            decided.append({**shared, "chosen": chosen, "rejected": rejected, **side})
    return _write(path, decided, ties)


def write_dialogues(path: Path, outgoing: Outgoing) -> list[Path]:
    """Write the same as dialogues of Human and Assistant, `chosen` and `rejected`, and ties into a file beside it.

    Raises:
        ExchangeError: the run's segments are no texts, or a file cannot be written.
    """
    decided, ties = [], []
    for one in _standing(outgoing):
        left, right = dialogue(one.left), dialogue(one.right)
        if one.choice is Choice.EQUAL:
            ties.append({"first": left, "second": right, "teacher": one.teacher})
        else:
            chosen, rejected = (left, right) if one.choice is Choice.LEFT else (right, left)
            decided.append({"chosen": chosen, "rejected": rejected, "teacher": one.teacher})
    return _write(path, decided, ties)


def _write(path: Path, decided: list[dict[str, Any]], ties: list[dict[str, Any]]) -> list[Path]:
    beside = path.with_suffix(TIES)
    for file, rows in ((path, decided), (beside, ties)):
        with written_whole(file) as opened:
            opened.writelines(line(row) for row in rows)
    return [path, beside]


def _standing(outgoing: Outgoing) -> Iterator[Judged]:
    """The answers that stand and are part of D, as texts."""
    texts: dict[str, Text] = {}
    for segments in outgoing.segments():
        if not are_texts(segments.states):
            raise ExchangeError("the segments of this run are clips and no texts; export --events or --preferences")
        for number, states in zip(segments.ids.tolist(), segments.states, strict=True):
            texts[outgoing.names[number]] = unpack_text(states)
    standing = set(outgoing.standing)
    for record in outgoing.events:
        choice = record["kind"]
        if record["uuid"] in standing and choice != Choice.INCOMPARABLE:
            asked = record["query"]
            yield Judged("", texts[asked["left"]], texts[asked["right"]], Choice(choice), record["teacher"])


def dialogue(text: Text) -> str:
    """Prompt and completion as HH-RLHF has them."""
    if text.prompt.startswith(HUMAN) and text.prompt.endswith(ASSISTANT):
        return text.prompt + text.completion
    return f"{HUMAN} {text.prompt}{ASSISTANT} {text.completion}"


# ---- in


def holds_texts(path: Path) -> bool:
    """Whether a file holds pairs of texts, rather than events; one of ties may hold none."""
    if path.suffix == ".json":
        return path.is_file()
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open("rb") as file:
        for _ in range(LOOKED_AT):
            try:
                row = json.loads(file.readline(MOST_LINE_BYTES))
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                return "uuid" not in row and any(keys <= row.keys() for keys in _READERS)
    return path.name.endswith(TIES)


def read_texts(path: Path, decode: Decode | None = None) -> Found:
    """The pairs of a file; what cannot be read is passed over and said.

    Args:
        decode: makes a text of tokens, where a file has these.

    Raises:
        ExchangeError: the file cannot be read, or nothing in it.
    """
    found = Found()
    for where, row in _rows(path):
        try:
            found.judged.extend(_judged(where, row() if callable(row) else row, path, decode))
        except (ValueError, RecursionError) as error:
            found.passed_over.append(f"{where}: {error}")
    if not found.judged:
        why = f"; {found.passed_over[0]}" if found.passed_over else ""
        empty_ties = path.name.endswith(TIES) and not found.passed_over
        if not empty_ties:
            raise ExchangeError(f"{path} has no pair of texts that could be read{why}")
    return found


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """What stands in each line, or entry of a list, with its place; a line is parsed by whoever calls it."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".json":
                yield from _entries(path, file.read(MOST_ARRAY_BYTES + 1))
                return
            for number in range(1, MOST_EVENTS + 1):
                text = file.readline(MOST_LINE_BYTES + 1)
                if not text:
                    return
                whole = text.endswith(b"\n") or len(text) <= MOST_LINE_BYTES
                while not whole and not file.readline(MOST_LINE_BYTES).endswith(b"\n"):
                    if file.tell() >= os.fstat(file.fileno()).st_size:
                        break
                if text.strip():
                    yield f"{path}, line {number}", lambda text=text, whole=whole: _parsed(text, whole)
            if file.read(1):
                raise ExchangeError(f"{path} has more than {MOST_EVENTS:,} lines; split it")
    except OSError as error:
        raise ExchangeError(f"{path} cannot be read ({error.strerror})") from error


def _entries(path: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    if len(content) > MOST_ARRAY_BYTES:
        raise ExchangeError(f"{path} has more than {MOST_ARRAY_BYTES:,} bytes; write it as lines (.jsonl)")
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ExchangeError(f"{path} is no JSON ({error})") from error
    if not isinstance(rows, list):
        raise ExchangeError(f"{path} holds {type(rows).__name__}, not a list of labels")
    yield from ((f"{path}, entry {number}", row) for number, row in enumerate(rows, 1))


def _parsed(text: bytes, whole: bool) -> Any:
    if not whole:
        raise ValueError(f"the most are {MOST_LINE_BYTES:,} bytes a line")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not a line of JSON ({error})") from error


def _judged(where: str, row: Any, path: Path, decode: Decode | None) -> list[Judged]:
    if not isinstance(row, dict):
        raise ValueError(f"this is {type(row).__name__}, not an object")
    reader = next((reader for keys, reader in _READERS.items() if keys <= row.keys()), None)
    if reader is None:
        raise ValueError("it has neither chosen and rejected, nor first and second, nor query, samples and best")
    teacher = row.get("teacher", path.stem.removesuffix(".ties") or "file")
    if not isinstance(teacher, str) or not 0 < len(teacher) <= LONGEST_TEACHER:
        raise ValueError(f"its teacher is no name of 1 to {LONGEST_TEACHER} characters")
    judged = [Judged(where, left, right, choice, teacher) for left, right, choice in reader(row, decode)]
    if not judged:
        raise ValueError("its texts are the same")
    return judged


_Pair = tuple[Text, Text, Choice]


def _pair(row: dict[str, Any], one: str, other: str) -> tuple[Text, Text]:
    """Two texts by their keys; without a prompt of their own they may be dialogues that share a beginning."""
    left, right = _turn(row, one), _turn(row, other)
    if "prompt" in row:
        prompt = _turn(row, "prompt")
        return Text(prompt, left), Text(prompt, right)
    alike = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    cut = left[:alike].rfind(ASSISTANT)
    if cut < 0:
        return Text("", left), Text("", right)
    head, left, right = left[: cut + len(ASSISTANT)], left[cut + len(ASSISTANT) :], right[cut + len(ASSISTANT) :]
    asked = head[len(HUMAN) + 1 : cut]
    one_turn = head.startswith(HUMAN + " ") and HUMAN not in asked and ASSISTANT not in asked
    if one_turn and left.startswith(" ") and right.startswith(" "):
        return Text(asked, left[1:]), Text(asked, right[1:])
    return Text(head, left), Text(head, right)


def _turn(row: dict[str, Any], key: str) -> str:
    given = row[key]
    if not isinstance(given, str):
        raise ValueError(f"its {key} is {type(given).__name__}, not a text")
    return given


def _decided(row: dict[str, Any], _: Decode | None) -> list[_Pair]:
    chosen, rejected = _pair(row, "chosen", "rejected")
    if row.get("chosen_side") == Choice.RIGHT:
        return [(rejected, chosen, Choice.RIGHT)] if chosen != rejected else []
    return [(chosen, rejected, Choice.LEFT)] if chosen != rejected else []


def _tie(row: dict[str, Any], _: Decode | None) -> list[_Pair]:
    first, second = _pair(row, "first", "second")
    return [(first, second, Choice.EQUAL)] if first != second else []


def _best_of_four(row: dict[str, Any], decode: Decode | None) -> list[_Pair]:
    """The best against each of the other three (Ziegler et al. 2019)."""
    best = row["best"]
    if type(best) is not int or not 0 <= best < SAMPLES:
        raise ValueError(f"its best is {best!r:.60}, not 0 to {SAMPLES - 1}")
    prompt = _decoded(row, "query", decode)
    samples = [Text(prompt, _decoded(row, f"sample{i}", decode)) for i in range(SAMPLES)]
    others = dict.fromkeys(text for text in samples if text != samples[best])
    return [(samples[best], other, Choice.LEFT) for other in others]


def _decoded(row: dict[str, Any], key: str, decode: Decode | None) -> str:
    given = row[key]
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not all(type(token) is int and 0 <= token < 2**31 for token in given):
        raise ValueError(f"its {key} is neither a text nor a list of tokens")
    if decode is None:
        raise ValueError(f"its {key} are tokens; give the function that makes a text of them (decode)")
    try:
        return decode(given)
    except (LookupError, OverflowError, TypeError) as error:
        raise ValueError(f"its {key} has tokens that the vocabulary does not have ({error})") from error


_READERS: dict[frozenset[str], Callable[[dict[str, Any], Decode | None], list[_Pair]]] = {
    frozenset({"chosen", "rejected"}): _decided,
    frozenset({"first", "second"}): _tie,
    frozenset({"query", "best", *(f"sample{i}" for i in range(SAMPLES))}): _best_of_four,
}
