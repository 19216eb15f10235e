"""What a run is: task, teacher, budget, and the settings of every part; saved with the run, and read back from it."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from backflip.fit import FitConfig
from backflip.policies.ppo import PPOConfig
from backflip.queries import AskConfig, LabelSchedule
from backflip.reward import RewardConfig
from backflip.teachers.oracle import FALLIBLE

Mode = Literal["in_turn", "at_once"]
PEOPLE = "people"


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run does."""

    task: str
    teacher: str = PEOPLE
    """people, oracle, or one of B-Pref's fallible teachers."""
    labels: int = 700
    """Comparisons to ask for in all (§3.1.1)."""
    steps: int = 2_000_000
    """Environment steps in all; with people, the run may be stopped and resumed at any time."""
    seed: int = 0
    mode: Mode = "at_once"
    segment_steps: int | None = None
    """Steps of a segment; by default 1.5 seconds of the task's own time (A.1)."""
    first_answers: int = 10
    """With people: comparisons before the first r̂. They should soon see that their choices matter."""
    segments_per_rollout: int = 16
    """Segments kept of each rollout while training, as candidates."""
    calibrate_steps: int = 20_000
    """r̂ is normalised anew when the policy has taken so many steps, or after a fit."""
    calibrate_segments: int = 100
    """Newest segments that r̂ is normalised on."""
    checkpoint_steps: int = 100_000
    """Environment steps between checkpoints; environments begin anew at each, so that a resumed run is the same run."""
    store: str | None = None
    """URL of a PostgreSQL database, instead of SQLite in the run directory."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    ask: AskConfig = field(default_factory=AskConfig)

    def __post_init__(self) -> None:
        if self.teacher not in (PEOPLE, *FALLIBLE):
            raise ValueError(f"no teacher is called {self.teacher!r}; there are: {', '.join((PEOPLE, *FALLIBLE))}")
        if self.labels < 1 or self.steps < 1:
            raise ValueError(f"labels is {self.labels} and steps is {self.steps}; both must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode is {self.mode!r}; it must be one of {', '.join(get_args(Mode))}")
        if self.segment_steps is not None and self.segment_steps < 1:
            raise ValueError(f"segment_steps is {self.segment_steps}; a segment has at least one step")
        if self.teacher == PEOPLE and self.mode == "in_turn":
            raise ValueError(
                "people cannot answer in turn: the run would stand still between answers; use --mode at_once"
            )

    @property
    def asks_people(self) -> bool:
        """Whether answers come through the page."""
        return self.teacher == PEOPLE

    @property
    def schedule(self) -> LabelSchedule:
        """When labels are due."""
        return LabelSchedule(self.labels, self.steps, self.ask.initial_fraction, self.ask.half_life)

    @property
    def labels_before_training(self) -> int:
        """Comparisons before the first r̂."""
        return min(self.first_answers, self.labels) if self.asks_people else max(1, self.schedule.initial)

    @property
    def segments_before_training(self) -> int:
        """Segments of the untrained policy to choose the first queries from: two for each, none used twice."""
        wanted = max(2 * self.ask.open_queries, 100) if self.asks_people else 2 * self.labels_before_training
        return min(wanted, self.ask.recent)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """From what `to_dict` gave; values that this version does not know are left out."""
        parts: dict[str, type[Any]] = {"ppo": PPOConfig, "reward": RewardConfig, "fit": FitConfig, "ask": AskConfig}
        known = {f.name for f in fields(cls)}
        plain: dict[str, Any] = {name: value for name, value in values.items() if name in known}
        for name, part in parts.items():
            known = {f.name for f in fields(part)}
            inner = {key: value for key, value in plain.get(name, {}).items() if key in known}
            if "band" in inner:
                inner["band"] = tuple(inner["band"])
            plain[name] = part(**inner)
        return cls(**plain)


def reset_seed(seed: int, iteration: int) -> int:
    """The seed that environments begin anew with at a checkpoint."""
    return (seed * 1_000_003 + iteration * 7_919 + 17) % (2**31 - 1)
