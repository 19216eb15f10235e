"""Draws what benchmarks/labels.py measured, and prints the table of docs/results.md.

    python benchmarks/plot.py [--quick] [--results benchmarks/results/labels] [--out docs/pictures]

curves.png (preset fast) and curves_paper.png: return against steps, over the curves of Christiano et al. 2017, figure
2, where it has them (means of five runs that explore; ours do not explore when they are evaluated).
labels.png: normalised score against labels. ablations.png: what each variant changes. reward.png: how good r̂ is.
teachers.png: what fallible teachers cost. A figure is left out, with a sentence, where its runs are not there.

The middle is the interquartile mean over seeds (IQM), intervals are 95 % by stratified bootstrap, both by rliable
(Agarwal et al. 2021); every seed is drawn. Seeds from 100 on report, those below 10 are for tuning, and only the
ablations show these as long as they have no others. `normalised` is as in labels.py, and its interval knows that the
score with the true reward, too, was measured on a few seeds. The last line is a JSON object of the figures.
"""

import argparse
import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import trim_mean

try:
    from rliable import library, metrics
except (ImportError, TypeError) as error:  # arch 7, which rliable needs, calls a function of pandas that changed in 3
    raise SystemExit(
        f"rliable cannot be imported ({error}); what it needs of arch needs an older pandas: "
        "pip install rliable 'pandas<3'"
    ) from error

RESULTS = Path(__file__).parent / "results" / "labels"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PAPER = Path(__file__).parent / "data" / "christiano2017_fig2_mujoco.csv"
PAPER_TASKS = ("cheetah", "hopper", "reacher", "swimmer", "walker")
PAPER_SERIES = {"real": ("paper: TRPO, true reward", ":"), "700syn": ("paper: TRPO, 700 labels", "-")}
"""The curves of figure 2 that are drawn: name and line."""
FAR_APART = 5
"""From this ratio of the paper's steps to ours on, steps are drawn on a logarithmic axis."""
BARS = {
    "Pendulum-v1": 50,
    "reacher": 100,
    "cheetah": 100,
    "dmc-walker-walk": 100,
    "dmc-cheetah-run": 100,
    "hopper": 200,
    "walker": 250,
    "swimmer": 200,
}
"""Labels of each task's bar in labels.py: the budget that is drawn where a task has several."""
REPORTING, TUNING = range(100, 2**31), range(10)
"""Seeds."""
REPEATS = 2000
"""Bootstrap samples of an interval (rliable's number for all but its final table)."""
LABEL_SECONDS = 4.0
"""A person takes 3 to 5 seconds on average (§3.1)."""
GOAL = 0.90
"""The bar, as a share of the true reward's score."""
BAND = (1.1, 1.5)
"""Where the ℓ2 rule keeps held-out loss over training loss (§2.2.3)."""
TEACHERS = ("oracle", "mistake", "stochastic", "skip", "myopic", "equal")

BLUE, RED, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#7F7F7F"
"""Colours that the colour-blind can tell apart (Okabe and Ito 2008)."""
PRESET_COLOURS = {"fast": BLUE, "paper": RED}
STYLES = list(zip((BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK, GREY), "osD^vPX*", strict=True))
"""Colour and mark of each task."""
WIDTH = 9.0
"""Inches; at 130 dots an inch a little more than a README shows."""
FONT = 8
EDGES = (-0.5, 2.0)
"""Normalised scores are drawn between these: a run that failed altogether stands at the edge."""
R_HAT = r"$\hat{r}$"


class Budget(NamedTuple):
    """What runs that differ only in their seed have in common."""

    task: str
    preset: str
    teacher: str
    labels: int
    steps: int


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    middle: float
    low: float
    high: float

    def written(self, write: Callable[[float], str]) -> str:
        """As in a table."""
        return f"{write(self.middle)} [{write(self.low)}, {write(self.high)}]"


@dataclass(frozen=True)
class Run:
    """A line of runs.csv."""

    budget: Budget
    variant: str
    seed: int
    final: float
    cpu_seconds: float
    loss_ratio: float
    accuracy: float
    spearman: float
    reliability: tuple[tuple[float, float], ...]
    """For each tenth of r̂'s probabilities: their mean, and how often the truth agreed."""
    curve: tuple[tuple[float, float], ...]
    """Step and true return."""


Array = np.ndarray[Any, np.dtype[np.float64]]
Left = str | None
"""Why a figure was left out, if it was."""


@dataclass(frozen=True)
class Results:
    """All runs, and what uniformly random actions score."""

    runs: list[Run]
    random: dict[str, float]

    def groups(self, variant: str = "", seeds: range = REPORTING) -> dict[Budget, list[Run]]:
        """The runs of a variant by their budget, quickest tasks first."""
        found: dict[Budget, list[Run]] = {}
        for run in sorted(self.runs, key=lambda run: (run.budget.steps, run.budget, run.seed)):
            if run.variant == variant and run.seed in seeds:
                found.setdefault(run.budget, []).append(run)
        return found

    def by_true_reward(self, budget: Budget) -> list[Run]:
        """The runs of the same policy with the same steps, paid by the true reward."""
        return self.groups("true").get(budget._replace(teacher="oracle", labels=0), [])

    def shown(self, preset: str) -> dict[str, Budget]:
        """For each task the budget that stands for it: its bar's labels, else the one with the most seeds."""
        groups = {key: runs for key, runs in self.groups().items() if key.preset == preset and key.teacher == "oracle"}
        return {
            task: max(
                (key for key in groups if key.task == task),
                key=lambda key: (
                    preset == "fast" and key.labels == BARS.get(key.task),
                    len(groups[key]),
                    key.steps,
                    key.labels,
                ),
            )
            for task in dict.fromkeys(key.task for key in groups)
        }

    @cached_property
    def normalised(self) -> dict[Budget, tuple[Estimate, list[float]]]:
        """(R - R_random) / (R_true - R_random) of each group of reporting runs, and of each run, where known."""
        found: dict[Budget, tuple[Estimate, list[float]]] = {}
        for budget, runs in self.groups().items():
            true, zero = self.by_true_reward(budget), self.random.get(budget.task)
            if true and zero is not None and iqm(finals(true)) > zero:
                found[budget] = relative(zero, finals(true), finals(runs))
        return found


def read(folder: Path) -> Results:
    """What labels.py wrote."""
    random_file = folder / "random.json"
    with (folder / "runs.csv").open() as file:
        runs = [_run(row, folder) for row in csv.DictReader(file)]
    return Results(runs, json.loads(random_file.read_text()) if random_file.exists() else {})


def _run(row: dict[str, str], folder: Path) -> Run:
    budget = Budget(row["task"], row["preset"], row["teacher"], int(row["labels"]), int(row["steps"]))
    parts = (row["task"], row["preset"], row["variant"], *budget[2:], row["seed"])
    file = folder / "curves" / f"{'-'.join(str(part) for part in parts if part != '')}.csv"
    curve: list[tuple[float, float]] = []
    if file.exists():
        with file.open() as lines:
            curve = [(float(line["step"]), float(line["true_return"])) for line in csv.DictReader(lines)]
    reliability = tuple((float(said), float(was)) for said, was, _ in json.loads(row["reliability"] or "[]"))
    final, cpu_seconds, loss_ratio, accuracy, spearman = (
        float(row[name] or "nan") for name in ("final", "cpu_seconds", "loss_ratio", "accuracy", "spearman")
    )
    return Run(
        budget,
        row["variant"],
        int(row["seed"]),
        final,
        cpu_seconds,
        loss_ratio,
        accuracy,
        spearman,
        reliability,
        tuple(curve),
    )


def finals(runs: Iterable[Run]) -> Array:
    """Final scores as rliable wants them: runs x tasks."""
    return np.array([[run.final] for run in runs])


def iqm(scores: Array) -> float:
    """Interquartile mean."""
    return float(metrics.aggregate_iqm(scores))


def interval(of: Callable[..., float], *scores: Array) -> Estimate:
    """A statistic of some independent sets of runs, with its interval."""
    np.random.seed(0)  # rliable draws from numpy's global generator
    point, ends = library.get_interval_estimates({"": list(scores)}, lambda *s: np.array([of(*s)]), reps=REPEATS)
    return Estimate(float(point[""][0]), float(ends[""][0, 0]), float(ends[""][1, 0]))


def relative(zero: float, one: Array, scores: Array) -> tuple[Estimate, list[float]]:
    """Scores on a scale whose ends are a number and other runs: their IQM, and each."""
    whole = interval(lambda those, these: (iqm(these) - zero) / (iqm(those) - zero), one, scores)
    return whole, [float(value) for value in (scores[:, 0] - zero) / (iqm(one) - zero)]


def band(runs: list[Run]) -> tuple[Array, Array, Array, Array]:
    """Steps, IQM and its interval along training."""
    steps = np.array(min((run.curve for run in runs), key=len))[:, 0]
    values = np.array([[np.interp(steps, *np.array(run.curve).T)] for run in runs])
    np.random.seed(0)
    point, ends = library.get_interval_estimates(
        {"": values}, lambda sample: np.asarray(trim_mean(sample, 0.25, axis=0))[0], reps=REPEATS
    )
    return steps, point[""], ends[""][0], ends[""][1]


def paper_curve(task: str, series: str) -> Array:
    """Steps and true return of a curve of the paper's figure 2."""
    with PAPER.open() as file:
        rows = [row for row in csv.DictReader(file) if (row["task"], row["series"]) == (task, series)]
    return np.array([(float(row["timestep"]), float(row["true_reward"])) for row in rows])


def count(value: float, _: Any = None) -> str:
    """150000 as 150k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def share(value: float) -> str:
    """.93"""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}")


def score(value: float) -> str:
    """1,234, or 3.1 where it is small."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def tidy(axes: Axes, **labels: Any) -> None:
    """Titles, a pale grid, and no box."""
    axes.set(**labels)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=FONT)
    axes.xaxis.label.set_fontsize(FONT)
    axes.yaxis.label.set_fontsize(FONT)
    axes.title.set_fontsize(FONT + 1)


def legend_above(figure: Figure, columns: int) -> None:
    """One legend for all panels, each name once."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    figure.legend(
        list(named.values()), list(named), loc="outside upper center", ncols=columns, fontsize=FONT, frameon=False
    )


def save(figure: Figure, file: Path) -> None:
    """As a PNG."""
    figure.savefig(file, dpi=130)


def draw_curves(preset: str, results: Results, file: Path) -> Left:
    """A panel a task: every seed, the IQM with its interval, the true reward's, and the paper's."""
    shown = {
        task: [run for run in results.groups()[budget] if run.curve] for task, budget in results.shown(preset).items()
    }
    shown = {task: runs for task, runs in shown.items() if runs}
    if not shown:
        return f"no run of the preset {preset} has a reporting seed and a curve"
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTH * max(columns, 2) / 3, 0.5 + 2.5 * rows), layout="constrained")
    for position, (task, runs) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, columns, position + 1)
        colour = PRESET_COLOURS.get(preset, GREEN)
        _draw_band(axes, runs, colour, "-", f"{R_HAT}, preset {preset} (IQM, 95 %)")
        for run in runs:
            axes.plot(*np.array(run.curve).T, color=colour, alpha=0.45, linewidth=0.6, label="each seed")
        true = [run for run in results.by_true_reward(runs[0].budget) if run.curve]
        if true:
            _draw_band(axes, true, BLACK, "--", "same policy, true reward (IQM, 95 %)")
            for run in true:
                axes.plot(*np.array(run.curve).T, color=BLACK, alpha=0.2, linewidth=0.5)
        _draw_paper(axes, task, max(run.curve[-1][0] for run in runs))
        axes.xaxis.set_major_formatter(count)
        tidy(
            axes,
            title=f"{task}: {runs[0].budget.labels} labels, {len(runs)} seed{'s' * (len(runs) != 1)}",
            xlabel="environment steps",
            ylabel="true return of an episode" if position % columns == 0 else "",
        )
    legend_above(figure, 3 if columns == 3 else 2)
    save(figure, file)
    return None


def _draw_band(axes: Axes, runs: list[Run], colour: str, line: str, name: str) -> None:
    """The IQM along training and its interval."""
    steps, middle, low, high = band(runs)
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(steps, middle, line, color=colour, linewidth=1.6 if line == "-" else 1.1, label=name, zorder=3)


def _draw_paper(axes: Axes, task: str, last: float) -> None:
    """The paper's curves, as far as our steps go; if hers go much farther, all of them on a logarithmic axis."""
    if task not in PAPER_TASKS:
        return
    curves = {series: paper_curve(task, series) for series in PAPER_SERIES}
    far = max(points[-1, 0] for points in curves.values()) > FAR_APART * last
    if far:
        axes.set_xscale("log")
    for series, points in curves.items():
        name, line = PAPER_SERIES[series]
        shown = points if far else points[points[:, 0] <= last]
        axes.plot(*shown.T, line, color=PINK, linewidth=1.3, label=name)


def draw_labels(results: Results, file: Path) -> Left:
    """Normalised score against labels, a line a task."""
    lines: dict[tuple[str, str], list[Budget]] = {}
    for key in results.normalised:
        if key.teacher == "oracle":
            lines.setdefault((key.task, key.preset), []).append(key)
    if not lines:
        return "no task has reporting runs, runs on the true reward with as many steps, and a random score"
    for line, keys in lines.items():  # of several lengths of run the one with the most budgets
        lengths = [key.steps for key in keys]
        steps = max(lengths, key=lambda length: (lengths.count(length), length))
        lines[line] = sorted((key for key in keys if key.steps == steps), key=lambda key: key.labels)
    beside: dict[int, list[Budget]] = {}
    for keys in lines.values():
        for key in keys:
            beside.setdefault(key.labels, []).append(key)
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.axhline(GOAL, color=BLACK, linewidth=0.9, linestyle="--", label=f"{share(GOAL)} of the true reward's score")
    styles = dict(zip(dict.fromkeys(task for task, _ in lines), STYLES, strict=False))
    for (task, preset), keys in lines.items():
        colour, mark = styles[task]
        x = [key.labels * 1.035 ** _aside(key, beside[key.labels]) for key in keys]
        for place, key in zip(x, keys, strict=True):
            _draw_seeds(axes, place / 1.016, results.normalised[key][1], colour, mark)
        name, line_style = (task, "-") if preset == "fast" else (f"{task}, preset {preset}", ":")
        _errorbar(axes, x, [results.normalised[key][0] for key in keys], colour, mark, line_style, name)
    ticks = _apart(sorted(beside))
    minutes = axes.secondary_xaxis(
        "top", functions=(partial(np.multiply, LABEL_SECONDS / 60), partial(np.multiply, 60 / LABEL_SECONDS))
    )
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    at = [tick * LABEL_SECONDS / 60 for tick in ticks]
    minutes.set_xticks(at, [f"{minute:.2g}" for minute in at])
    for each in (axes, minutes):
        each.minorticks_off()
    minutes.tick_params(labelsize=FONT)
    minutes.set_xlabel(f"minutes of a person, {LABEL_SECONDS:g} s a label", fontsize=FONT)
    tidy(axes, xlabel="labels (comparisons)", ylabel="normalised score (0 random, 1 true reward)")
    figure.legend(fontsize=FONT, frameon=False, loc="outside right center")
    save(figure, file)
    return None


def _aside(key: Budget, beside: list[Budget]) -> float:
    """How many places a mark steps aside, so that equal budgets do not hide each other."""
    return beside.index(key) - (len(beside) - 1) / 2


def _draw_seeds(axes: Axes, x: float, values: list[float], colour: str, mark: str) -> None:
    axes.plot(
        [x] * len(values), np.clip(values, *EDGES), mark, color=colour, alpha=0.4, markersize=3, markeredgewidth=0
    )


def _errorbar(
    axes: Axes, x: Any, estimates: list[Estimate], colour: str, mark: str, line: str = "none", name: str = ""
) -> None:
    middle, low, high = np.clip(np.array(estimates), *EDGES).T
    axes.errorbar(
        x,
        middle,
        [np.maximum(middle - low, 0), np.maximum(high - middle, 0)],  # rounding can leave -1e-17
        color=colour,
        marker=mark,
        linestyle=line,
        linewidth=1.3,
        markersize=5,
        capsize=2,
        label=name or None,
    )


def _apart(ticks: list[int]) -> list[int]:
    """Those of some labels that are written without touching on a logarithmic axis."""
    kept: list[int] = []
    for tick in ticks:
        if not kept or tick >= 1.2 * kept[-1]:
            kept.append(tick)
    return kept


def draw_ablations(results: Results, file: Path, improvements: dict[str, Estimate]) -> Left:
    """What each variant scores relative to the plain preset, and how probably the plain preset is better."""
    for seeds in (REPORTING, TUNING):
        compared = _compared(results, seeds)
        if compared:
            break
    if not compared:
        return "no variant was run beside the plain preset with the same budget and a random score"
    tasks = list(dict.fromkeys(key for pairs in compared.values() for key in pairs))
    figure = Figure(figsize=(WIDTH, 1.2 + len(compared) * (0.16 + 0.17 * len(tasks))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
    thick = 0.8 / len(tasks)
    styles = dict(zip(tasks, STYLES * len(tasks), strict=False))
    for row, (variant, pairs) in enumerate(compared.items()):
        for key, (plain, changed) in pairs.items():
            colour, mark = styles[key]
            y = row - 0.4 + (tasks.index(key) + 0.5) * thick
            whole, each = relative(results.random[key.task], finals(plain), finals(changed))
            name = f"{key.task}, {key.labels} labels, {count(key.steps)} steps; plain: {len(plain)} seeds"
            left.barh(y, whole.middle, 0.9 * thick, color=colour, alpha=0.5, label=name)
            left.plot(np.clip(whole[1:], *EDGES), [y, y], color=BLACK, linewidth=1)
            left.plot(np.clip(each, *EDGES), [y] * len(each), mark, color=colour, markersize=3.5, markeredgewidth=0)
            chance = float(metrics.probability_of_improvement(finals(plain), finals(changed)))
            right.plot(chance, y, mark, color=colour, markersize=4, markeredgewidth=0)
        estimate = interval(_improvement, *(finals(runs) for pair in pairs.values() for runs in pair))
        improvements[variant] = estimate
        right.plot(estimate[1:], [row, row], color=BLACK, linewidth=1.2)
        right.plot(estimate.middle, row, "|", color=BLACK, markersize=11, markeredgewidth=1.8)
    left.axvline(1, color=BLACK, linewidth=0.9, linestyle="--")
    right.axvline(0.5, color=BLACK, linewidth=0.9, linestyle="--")
    left.set_yticks(range(len(compared)), list(compared))
    left.set_ylim(len(compared) - 0.45, -0.55)
    right.set_xlim(-0.03, 1.03)
    kind = "" if seeds is REPORTING else "; seeds of tuning, none of reporting yet"
    tidy(left, xlabel="score relative to the plain preset (0 random, 1 plain)", title=f"IQM, 95 % interval{kind}")
    tidy(right, xlabel="P(a run of the plain preset is better)", title="probability of improvement, over tasks")
    legend_above(figure, 2)
    save(figure, file)
    return None


def _compared(results: Results, seeds: range) -> dict[str, dict[Budget, tuple[list[Run], list[Run]]]]:
    """For each variant and budget the plain runs and the changed ones."""
    plain = results.groups("", seeds)
    found: dict[str, dict[Budget, tuple[list[Run], list[Run]]]] = {}
    for variant in dict.fromkeys(run.variant for run in results.runs):
        if variant in ("", "true"):
            continue
        for budget, changed in results.groups(variant, seeds).items():
            zero = results.random.get(budget.task)
            if budget in plain and zero is not None and iqm(finals(plain[budget])) > zero:
                found.setdefault(variant, {})[budget] = (plain[budget], changed)
    return found


def _improvement(*both: Array) -> float:
    """P(plain > changed), the mean over tasks; the sets of runs are plain and changed of each task in turn."""
    pairs = zip(both[::2], both[1::2], strict=True)
    return float(np.mean([metrics.probability_of_improvement(plain, changed) for plain, changed in pairs]))


def draw_reward(results: Results, file: Path) -> Left:
    """How good r̂ is: loss ratio, held-out accuracy, rank correlation, and whether its probabilities hold."""
    groups = {
        key: [run for run in results.groups()[key] if run.reliability]
        for preset in PRESET_COLOURS
        for key in results.shown(preset).values()
    }
    groups = {key: runs for key, runs in groups.items() if runs}
    if not groups:
        return "no reporting run with an oracle has measurements of its r̂"
    figure = Figure(figsize=(WIDTH, 3.0 + 0.2 * len(groups)), layout="constrained")
    grid = figure.add_gridspec(1, 4, width_ratios=(1, 1, 1, 1.9))
    names = [f"{key.task}, {key.labels}" for key in groups]
    panels = {
        "loss_ratio": f"held-out loss / training loss\n(shaded: {BAND[0]}-{BAND[1]})",
        "accuracy": "accuracy on\nheld-out labels",
        "spearman": f"Spearman of {R_HAT} and\ntrue return, new segments",
    }
    first: Axes | None = None
    for column, (field, name) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[column], sharey=first)
        first = first or axes
        if field == "loss_ratio":
            axes.axvspan(*BAND, color=GREEN, alpha=0.15, linewidth=0)
        for row, (key, runs) in enumerate(groups.items()):
            values = [value for value in (getattr(run, field) for run in runs) if np.isfinite(value)]
            colour = PRESET_COLOURS[key.preset]
            axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.55, markersize=4, markeredgewidth=0)
            if values:
                axes.plot(iqm(np.array(values)), row, "|", color=BLACK, markersize=12, markeredgewidth=1.6)
        tidy(axes, xlabel=name)
        axes.tick_params(labelleft=column == 0)
    assert first is not None
    first.set_yticks(range(len(names)), names)
    first.set_ylim(len(names) - 0.5, -0.5)
    first.set_ylabel("task, labels")
    axes = figure.add_subplot(grid[3])
    axes.plot([0, 1], [0, 1], "--", color=BLACK, linewidth=0.9)
    _draw_reliability(axes, groups)
    axes.set_aspect("equal")
    tidy(
        axes,
        xlabel=f"probability by {R_HAT} that a segment is better",
        ylabel="share in which it is",
        title="pairs of new segments",
    )
    axes.legend(fontsize=FONT, frameon=False, loc="upper left")
    save(figure, file)
    return None


def _draw_reliability(axes: Axes, groups: dict[Budget, list[Run]]) -> None:
    """The diagram of each run, and pooled over the runs of a preset, each with equal weight."""
    for preset, colour in PRESET_COLOURS.items():
        runs = [run for key, found in groups.items() if key.preset == preset for run in found]
        if not runs:
            continue
        for run in runs:
            axes.plot(*np.array(run.reliability).T, color=colour, alpha=0.25, linewidth=0.5)
        tenths: dict[int, list[tuple[float, float]]] = {}
        for run in runs:
            for said, was in run.reliability:
                tenths.setdefault(min(int(said * 10), 9), []).append((said, was))
        x = [float(np.mean([said for said, _ in points])) for _, points in sorted(tenths.items())]
        estimates = [
            interval(lambda s: float(s.mean()), np.array([[was] for _, was in points]))
            for _, points in sorted(tenths.items())
        ]
        _errorbar(axes, x, estimates, colour, "o", "-", f"preset {preset}, {len(runs)} runs")


def draw_teachers(results: Results, file: Path) -> Left:
    """Normalised score by teacher, a mark a task."""
    scores: dict[Budget, dict[str, tuple[Estimate, list[float]]]] = {}
    for key in results.groups():
        if key in results.normalised and key.teacher in TEACHERS:
            scores.setdefault(key._replace(teacher=""), {})[key.teacher] = results.normalised[key]
    scores = {key: found for key, found in scores.items() if set(found) - {"oracle"}}
    if not scores:
        return "no reporting run with a fallible teacher has runs on the true reward beside it"
    teachers = [name for name in TEACHERS if any(name in found for found in scores.values())]
    figure = Figure(figsize=(WIDTH * 0.8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(1, color=BLACK, linewidth=0.9, linestyle="--")
    for number, (key, found) in enumerate(scores.items()):
        colour, mark = STYLES[number % len(STYLES)]
        have = [name for name in teachers if name in found]
        x = np.array([teachers.index(name) for name in have]) + 0.6 * ((number + 0.5) / len(scores) - 0.5)
        for place, name in zip(x, have, strict=True):
            _draw_seeds(axes, place - 0.05, found[name][1], colour, mark)
        preset = "" if key.preset == "fast" else f", preset {key.preset}"
        _errorbar(
            axes,
            x,
            [found[name][0] for name in have],
            colour,
            mark,
            name=f"{key.task}, {key.labels} labels{preset}",
        )
    axes.set_xticks(range(len(teachers)), teachers)
    tidy(axes, xlabel="teacher (B-Pref)", ylabel="normalised score (0 random, 1 true reward)")
    legend_above(figure, 3)
    save(figure, file)
    return None


def table(results: Results) -> dict[str, Any]:
    """Print the tables for docs/results.md, one for each preset and teacher; also the figures as plain values."""
    values: dict[str, Any] = {}
    groups = results.groups()
    for preset, teacher in dict.fromkeys((key.preset, key.teacher) for key in groups):
        print(f"\nPreset {preset}, teacher {teacher}:\n")
        print("| task | labels | steps | seeds | IQM [95 %] | worst seed | true reward | normalised [95 %] | CPU min |")
        print("|---|---|---|---|---|---|---|---|---|")
        for key, runs in groups.items():
            if (key.preset, key.teacher) != (preset, teacher):
                continue
            whole, true = interval(iqm, finals(runs)), results.by_true_reward(key)
            normalised = results.normalised.get(key)
            worst, minutes = min(run.final for run in runs), np.mean([run.cpu_seconds for run in runs]) / 60
            cells = [
                *(key.task, key.labels, count(key.steps), len(runs), whole.written(score), score(worst)),
                score(iqm(finals(true))) if true else "",
                normalised[0].written(share) if normalised else "",
                f"{minutes:.1f}",
            ]
            print(f"| {' | '.join(str(cell) for cell in cells)} |")
            values["/".join(str(part) for part in key)] = {
                "seeds": len(runs),
                "iqm": [round(value, 2) for value in whole],
                "worst": worst,
                "true": round(iqm(finals(true)), 2) if true else None,
                "normalised": [round(value, 3) for value in normalised[0]] if normalised else None,
                "cpu_minutes": round(float(minutes), 1),
            }
    return values


def missing(results: Results) -> list[str]:
    """Which tasks have no normalised score, and so are not in the figures that show it, and why."""
    sentences: dict[str, None] = {}
    for key in results.groups():
        if key in results.normalised:
            continue
        if key.task not in results.random:
            reason = "random.json lacks what random actions score"
        elif not results.by_true_reward(key):
            reason = f"no reporting run of {count(key.steps)} steps was paid by the true reward (variant true)"
        else:
            reason = f"in {count(key.steps)} steps the true reward teaches no more than random actions score"
        sentences[f"{key.task} with preset {key.preset} has no normalised score: {reason}"] = None
    return list(sentences)


def main() -> None:
    """The tables, the figures and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="draw what there is into a temporary directory")
    parser.add_argument("--results", type=Path, default=RESULTS, help="what labels.py wrote")
    parser.add_argument("--out", type=Path, help="where the figures go; by default docs/pictures")
    options = parser.parse_args()
    if not (options.results / "runs.csv").exists():
        sentence = f"{options.results / 'runs.csv'} is not there; benchmarks/labels.py writes it"
        if not options.quick:
            parser.error(sentence)
        print(sentence)
        print(json.dumps({"drawn": [], "left_out": {}, "table": {}}))
        return
    out: Path = options.out or (Path(tempfile.mkdtemp()) if options.quick else PICTURES)
    out.mkdir(parents=True, exist_ok=True)
    results = read(options.results)
    improvements: dict[str, Estimate] = {}
    figures: dict[str, Callable[[Results, Path], Left]] = {
        "curves.png": partial(draw_curves, "fast"),
        "curves_paper.png": partial(draw_curves, "paper"),
        "labels.png": draw_labels,
        "ablations.png": partial(draw_ablations, improvements=improvements),
        "reward.png": draw_reward,
        "teachers.png": draw_teachers,
    }
    values = table(results)
    print()
    left_out = {name: reason for name, draw in figures.items() if (reason := draw(results, out / name)) is not None}
    for variant, estimate in improvements.items():
        print(f"P(the plain preset is better than {variant}) is {estimate.written(share)}")
    for sentence in missing(results):
        print(sentence)
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}")
    drawn = [name for name in figures if name not in left_out]
    print(f"{', '.join(drawn) or 'nothing'} drawn in {out}")
    chances = {variant: [round(value, 3) for value in estimate] for variant, estimate in improvements.items()}
    print(json.dumps({"drawn": drawn, "left_out": left_out, "improvement": chances, "table": values}))


if __name__ == "__main__":
    main()
