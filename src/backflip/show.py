"""A run's measurements as pictures, for those who would rather look than read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backflip.files import whole_file, writing
from backflip.rundir import RunDir, RunError
from backflip.segments import Array

Curves = dict[str, Array]
"""Name of a measurement -> [n 2], columns step and value."""

COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea")
PANELS: dict[str, tuple[str, Sequence[str]]] = {
    "returns": ("return of an episode", ("act/predicted_return", "act/true_return", "act/evaluation")),
    "losses": ("nats per comparison", ("fit/train_loss", "fit/validation_loss")),
    "loss_ratio": ("validation / training loss", ("fit/loss_ratio",)),
    "labels": ("labels", ("ask/labels", "ask/due")),
    "disagreement": ("variance of P̂(left)", ("ask/disagreement", "ask/disagreement_candidates")),
    "behaviour": ("behaviour", ("act/behaviour",)),
    "critics": ("value that the critics expect", ("act/value",)),
    "exploration": ("nats", ("act/entropy",)),
    "kl": ("KL to the original, nats a completion", ("act/kl_exact", "act/kl_k1", "act/kl_k3")),
    "beta": ("price of a nat", ("act/beta",)),
    "accuracy": ("right orderings, held-out", ("fit/accuracy",)),
}
"""File name -> axis label and measurements."""


def curves(run: RunDir) -> Curves:
    """All measurements of a run."""
    points: dict[str, list[tuple[float, float]]] = {}
    for line in run.metrics()[0]:
        points.setdefault(line["name"], []).append((line["step"], line["value"]))
    return {name: np.array(values, float) for name, values in points.items()}


def show(run: RunDir) -> list[Path]:
    """Write one PNG for each panel that has something to show, and one with all; return their paths.

    Raises:
        RunError: nothing has been measured yet.
        CannotWrite: the disk is full, or not ours to write on.
    """
    found = curves(run)
    present = {name: panel for name, panel in PANELS.items() if any(key in found for key in panel[1])}
    if not present:
        raise RunError(f"{run.path} has no measurements yet; let it train a little longer")
    directory = run.path / "plots"
    with writing(directory):
        directory.mkdir(exist_ok=True)
    written = []
    for name, (label, keys) in present.items():
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        _draw(figure.add_subplot(), found, label, keys)
        written.append(directory / f"{name}.png")
        _save(figure, written[-1])
    whole = Figure(figsize=(12, 3.3 * -(-len(present) // 2)), layout="constrained")
    for position, (label, keys) in enumerate(present.values()):
        _draw(whole.add_subplot(-(-len(present) // 2), 2, position + 1), found, label, keys)
    whole.suptitle(f"{run.settings['task']}, seed {run.settings['seed']}, taught by {run.settings['teacher']}")
    written.append(directory / "run.png")
    _save(whole, written[-1])
    return written


def _save(figure: Figure, path: Path) -> None:
    with writing(path), whole_file(path, durable=False) as file:
        figure.savefig(file, format="png", dpi=130)


def _draw(axes: Axes, found: Curves, label: str, keys: Sequence[str]) -> None:
    right: Axes | None = None
    for key, colour in zip(keys, COLOURS, strict=False):
        if key not in found:
            continue
        steps, values = found[key].T
        # r̂ and the true reward have different units, so each gets its own axis.
        true = key in ("act/true_return", "act/evaluation") and "act/predicted_return" in found
        right = (right or axes.twinx()) if true else right
        on = right if true and right else axes
        on.plot(steps, values, color=colour, linewidth=1.4, label=key)
        if on is not axes:
            on.set_ylabel("true return", color=colour)
    if "fit/loss_ratio" in keys:
        axes.axhspan(1.1, 1.5, color="#16a34a", alpha=0.15, label="held within")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    handles, names = axes.get_legend_handles_labels()
    for other in axes.figure.axes if isinstance(axes.figure, Figure) else []:
        if other is not axes and other.bbox.bounds == axes.bbox.bounds:
            more, also = other.get_legend_handles_labels()
            handles, names = handles + more, names + also
    axes.legend(handles, names, fontsize=8, frameon=False)
