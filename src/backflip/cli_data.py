"""Commands that take a run's answers out of it, and bring others in."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from backflip.rundir import RunDir
from backflip.terminal import File, Number, Run, Unusable, out

if TYPE_CHECKING:
    from backflip.exchange.bundle import Outgoing

Paths = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH [PATH ...]")]
Dataset = tyro.conf.arg(metavar="NAME|FOLDER", help_behavior_hint="")
Folder = tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")
Segment = tyro.conf.arg(metavar="SEGMENT", help_behavior_hint="")


def export_run(
    run: Run,
    events: Annotated[Path | None, File] = None,
    preferences: Annotated[Path | None, File] = None,
    minari: Annotated[str | None, Dataset] = None,
    trl: Annotated[Path | None, File] = None,
    dialogues: Annotated[Path | None, File] = None,
    card: Annotated[Path | None, Folder] = None,
    model: Annotated[Path | None, Folder] = None,
    licence: str = "unknown",
    clip: Annotated[int | None, Segment] = None,
    video: Annotated[Path | None, File] = None,
    without_names: bool = False,
) -> None:
    """Write a run's answers, clips and r̂ in formats that other programs read; several at once, if you like.

    Args:
        run: the run directory.
        events: every answer, skip and undo as a line of JSON into this .jsonl, and the segments into an .npz beside it.
        preferences: the answers that stand as a table into this .parquet, and the segments into an .npz beside it.
        minari: the segments as episodes of a Minari dataset, with the answers pointing into them.
        trl: of a run of texts, prompt, chosen and rejected into this .jsonl, and ties into a .ties.jsonl beside it.
        dialogues: the same as dialogues of Human and Assistant (HH-RLHF).
        card: the newest r̂ with a page about it into this folder.
        model: of a run of texts, the tuned model with a page about it into this folder, for transformers to load.
        licence: of the card or the model, such as cc-by-4.0; by default a model has that of the one it began with.
        clip: the number of a segment to draw into the --video.
        video: an .mp4 for the --clip.
        without_names: write annotator-1, annotator-2 ... instead of the names of people.
    """
    from backflip.exchange.bundle import outgoing
    from backflip.exchange.card import write_card
    from backflip.exchange.film import film_segment

    if (clip is None) != (video is None):
        raise Unusable("--clip says which segment, --video where to: give both, as in --clip 12 --video clip.mp4")
    _must_end_in(events, ".jsonl")
    _must_end_in(preferences, ".parquet")
    _must_end_in(trl, ".jsonl")
    _must_end_in(dialogues, ".jsonl")
    answers = [given is not None for given in (events, preferences, minari, trl, dialogues)]
    if not any([*answers, card, model]) and clip is None:
        raise Unusable(
            "nothing to export; give --events, --preferences, --minari, --trl, --dialogues, --card, --model, "
            "or --clip with --video"
        )
    directory = RunDir.open(run)
    written: list[Path] = []
    with closing(directory.store()) as store:
        if any(answers):
            found = outgoing(directory, store, without_names)
            written += _write_answers(found, events, preferences, minari)
            written += _write_texts(found, trl, dialogues)
        if clip is not None and video is not None:
            film_segment(directory, store, clip, video)
            written.append(video)
        if card is not None:
            written += write_card(card, directory, store, licence)
    written += _write_model(model, directory, licence) if model else []
    for path in dict.fromkeys(written):
        out.print(str(path), highlight=False, soft_wrap=True)


def _write_model(folder: Path, run: RunDir, licence: str) -> list[Path]:
    from backflip.lm.export import export_model

    return export_model(run, folder, licence)


def _write_answers(found: "Outgoing", events: Path | None, preferences: Path | None, minari: str | None) -> list[Path]:
    from backflip.exchange.episodes import write_episodes
    from backflip.exchange.events import write_events
    from backflip.exchange.table import write_preferences

    written = write_events(events, found) if events else []
    written += write_preferences(preferences, found) if preferences else []
    return written + (write_episodes(minari, found) if minari else [])


def _write_texts(found: "Outgoing", trl: Path | None, dialogues: Path | None) -> list[Path]:
    from backflip.exchange.text_files import write_dialogues, write_trl

    return (write_trl(trl, found) if trl else []) + (write_dialogues(dialogues, found) if dialogues else [])


def import_into(run: Run, paths: Paths, ask: Annotated[int, Number] = 0) -> None:
    """Bring answers and segments into a run: all that is there, or if something is wrong, nothing.

    What is in the run already is not brought in again.

    Args:
        run: the run directory that they go into.
        paths: what `backflip export` wrote (.jsonl, .parquet, Minari), other runs, or folders of your own clips.
        ask: put so many pairs of the new segments to the teacher.
    """
    from backflip.exchange.incoming import import_all

    if not paths:
        raise Unusable("nothing to import; name files, folders or other runs after the run that they go into")
    if ask < 0:
        raise Unusable(f"--ask is {ask}; it must be 0 or more")
    directory = RunDir.open(run)
    texts: dict[str, Any] = {}
    if directory.settings.get("tune"):
        from backflip.lm.incoming import reading

        texts = dict(zip(("features", "decode", "room"), reading(directory), strict=True))
    with closing(directory.store()) as store:
        found = import_all(directory, store, list(paths), ask, **texts)
    new = found.brought
    said = f"new: {len(found.segments):,} segments, {new.queries:,} queries, {new.events:,} events"
    already = f"; {new.known:,} events were here already" if new.known else ""
    out.print(said + already, highlight=False, soft_wrap=True)
    for sentence in found.passed_over:
        out.print(f"passed over: {sentence}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def _must_end_in(path: Path | None, suffix: str) -> None:
    if path is not None and path.suffix != suffix:
        raise Unusable(f"{path} should end in {suffix}; by that, `backflip import` knows what it is")
