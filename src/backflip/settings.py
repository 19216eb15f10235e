"""What a run is: task, teacher, budget, and the settings of every part; saved with the run, and read back from it."""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from backflip.database import must_be_postgresql
from backflip.errors import must_be_one_of, plain_numbers
from backflip.fit import FitConfig
from backflip.policies.ppo import PPOConfig
from backflip.policies.sac import SACConfig
from backflip.queries import AskConfig, LabelSchedule
from backflip.reward import RewardConfig
from backflip.rundir import RunDir, RunError
from backflip.store import KEEP_SEGMENTS
from backflip.teachers.oracle import FALLIBLE
from backflip.teachers.people import PeopleConfig
from backflip.tuning import TuneConfig

Mode = Literal["in_turn", "at_once"]
Algorithm = Literal["ppo", "sac"]
Log = Literal["tensorboard", "wandb", "trackio"]
Behaviour = Literal["recent", "labelled"]
SPARE_STEPS = 100_000
"""How far a run may overshoot its steps: it finishes the rollout it is in."""
PEOPLE = "people"
SCRIPTED = "scripted"
JUDGE = "judge"


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run does."""

    task: str
    teacher: str = PEOPLE
    """people, judge (a language model), scripted (a script in their place), oracle, or a fallible one."""
    question: str | None = None
    """What people, or a judge, are asked; by default the task's own question. A run's settings have the one it asks."""
    labels: int = 700
    """Comparisons to ask for in all (§3.1.1)."""
    steps: int = 2_000_000
    """Environment steps in all; with people, the run may be stopped and resumed at any time."""
    seed: int = 0
    mode: Mode = "at_once"
    policy: Algorithm = "ppo"
    segment_steps: int | None = None
    """Steps of a segment; by default 1.5 seconds of the task's own time (A.1)."""
    first_answers: int = 10
    """With people: comparisons before the first r̂. They should soon see that their choices matter."""
    segments_per_rollout: int = 16
    """Segments kept of each rollout while training, as candidates."""
    calibrate_on: Behaviour = "recent"
    """r̂ is normalised on the newest segments, or on those of the comparisons. What an off-policy critic has learned
    about old behaviour goes on being right as long as the zero of r̂ stays where it is."""
    calibrate_steps: int = 20_000
    """r̂ is normalised anew when the policy has taken so many steps, or after a fit."""
    calibrate_segments: int = 100
    """Newest segments that r̂ is normalised on."""
    checkpoint_steps: int = 100_000
    """Environment steps between checkpoints; environments begin anew at each, so that a resumed run is the same run. At
    once there is one every ten minutes at least."""
    evaluate_steps: int | None = None
    """Environment steps between two evaluations without exploration, by the true reward; by default there are none."""
    evaluate_episodes: int = 10
    """Whole episodes of one evaluation."""
    store: str | None = None
    """URL of a PostgreSQL database, instead of SQLite in the run directory."""
    disk_megabytes: int = 4000
    """What the run directory may take. Drawings make room, those of the oldest answered queries first; all else in it
    is bounded by the number of labels, by `ask.recent` segments and by the policy's memory."""
    log: tuple[str, ...] = ()
    """Where measurements go beside the run directory: tensorboard, wandb, trackio."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    sac: SACConfig = field(default_factory=SACConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    ask: AskConfig = field(default_factory=AskConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)
    tune: TuneConfig | None = None
    """How a language model is tuned, in the runs whose segments are completions; a step is then a completion."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        teachers = (PEOPLE, SCRIPTED, JUDGE, *FALLIBLE)
        if self.teacher not in teachers:
            raise ValueError(f"no teacher is called {self.teacher!r}; there are: {', '.join(teachers)}")
        if self.labels < 1 or self.steps < 1:
            raise ValueError(f"labels is {self.labels} and steps is {self.steps}; both must be at least 1")
        for name in ("checkpoint_steps", "segments_per_rollout", "calibrate_segments", "first_answers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.question is not None and not self.question.strip():
            raise ValueError(
                f"question is {self.question!r}; say what people are asked, or leave it out for the task's own"
            )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        if self.store is not None:
            must_be_postgresql(self.store)
        must_be_one_of(Mode, mode=self.mode)
        must_be_one_of(Algorithm, policy=self.policy)
        must_be_one_of(Behaviour, calibrate_on=self.calibrate_on)
        if self.disk_megabytes < 1:
            raise ValueError(f"disk_megabytes is {self.disk_megabytes}; a run directory takes at least 1, better 1000")
        if isinstance(self.log, str) or not set(self.log) <= set(get_args(Log)):
            known = ", ".join(get_args(Log))
            raise ValueError(f"log is {self.log!r}; it must be a tuple, and measurements can go to: {known}")
        if self.segment_steps is not None and self.segment_steps < 1:
            raise ValueError(f"segment_steps is {self.segment_steps}; a segment has at least one step")
        if (self.evaluate_steps is not None and self.evaluate_steps < 1) or self.evaluate_episodes < 1:
            raise ValueError(
                f"evaluate_steps is {self.evaluate_steps} and evaluate_episodes {self.evaluate_episodes}; "
                "both are at least 1, or leave evaluate_steps out"
            )
        if self.people.best_of > 2 and (self.tune is None or self.tune.completions < self.people.best_of):
            raise ValueError(
                f"best_of is {self.people.best_of}; that is for text tasks with as many completions of each prompt"
            )
        if self.teacher == PEOPLE and self.mode == "in_turn":
            raise ValueError(
                "people cannot answer in turn: the run would stand still between answers; use --mode at_once"
            )

        if self.teacher == JUDGE and self.mode == "in_turn":
            raise ValueError(
                "a judge cannot answer in turn: a run that is killed loses what replies cost; use --mode at_once"
            )

    @property
    def is_text(self) -> bool:
        """Whether a language model is tuned."""
        return self.tune is not None

    @property
    def asks_people(self) -> bool:
        """Whether answers come through the page."""
        return self.teacher == PEOPLE

    @property
    def needs_states(self) -> bool:
        """Whether the teacher looks at the simulator's states: a script at them, others at what is drawn from them."""
        return self.teacher == SCRIPTED or self.shows_clips

    @property
    def shows_clips(self) -> bool:
        """Whether the teacher looks at clips: people, or a model that sees."""
        return self.teacher in (PEOPLE, JUDGE)

    @property
    def reads_true_reward(self) -> bool:
        """Whether the teacher answers from the true reward."""
        return self.teacher in FALLIBLE

    @property
    def schedule(self) -> LabelSchedule:
        """When labels are due."""
        ask, begin = self.ask, self.steps_before_training
        last = max(begin + 1, round(self.steps * ask.until))
        return LabelSchedule(self.labels, last, ask.initial_fraction, ask.half_life, ask.session, begin)

    @property
    def exploration(self) -> SACConfig:
        """SAC's settings, with no more than a fifth of a short run at random, and another for what is new.

        Nor does it remember much more than the run is long.
        """
        most = self.steps // 5
        sac = self.sac
        return replace(
            sac,
            random_steps=min(sac.random_steps, most),
            entropy_steps=min(sac.entropy_steps, most),
            capacity=min(sac.capacity, self.steps + SPARE_STEPS),
        )

    @property
    def keep_segments(self) -> int:
        """Segments that nobody was asked about, of which the store keeps so many at least."""
        return max(KEEP_SEGMENTS, self.ask.recent)

    @property
    def steps_before_training(self) -> int:
        """Environment steps without r̂ at least."""
        explores = self.policy == "sac" and not self.is_text
        return self.exploration.random_steps + self.exploration.entropy_steps if explores else 0

    @property
    def labels_before_training(self) -> int:
        """Comparisons before the first r̂."""
        return min(self.first_answers, self.labels) if self.asks_people else max(1, self.schedule.initial)

    @property
    def segments_before_training(self) -> int:
        """Segments of the untrained policy to choose the first queries from: two for each, none used twice."""
        wanted = 2 * self.ask.open_queries if self.asks_people else 2 * self.labels_before_training
        if self.tune:  # a prompt's completions are enough for as many queries as there are completions
            wanted = 2 * self.tune.batch if self.asks_people else self.labels_before_training * self.tune.completions
        return min(wanted, self.ask.recent)

    def has_shown_enough(self, segments: int, steps: int) -> bool:
        """Whether there is enough of the untrained policy to be asked about; a quarter of a short run has to do."""
        many = segments >= self.segments_before_training or (segments > 1 and 4 * steps >= self.steps)
        return many and steps >= self.steps_before_training

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """From what `to_dict` gave; values that this version does not know are left out."""
        parts: dict[str, type[Any]] = {
            "ppo": PPOConfig,
            "sac": SACConfig,
            "reward": RewardConfig,
            "fit": FitConfig,
            "ask": AskConfig,
            "people": PeopleConfig,
        }
        plain = _known(cls, values)
        plain["log"] = tuple(plain.get("log", ()))
        for name, part in parts.items():
            inner = _known(part, plain.get(name, {}))
            if "band" in inner:
                inner["band"] = tuple(inner["band"])
            plain[name] = part(**inner)
        if plain.get("tune") is not None:
            plain["tune"] = TuneConfig(**_known(TuneConfig, plain["tune"]))
        return cls(**plain)


def settings_of(run: RunDir) -> Settings:
    """A run's settings.

    Raises:
        RunError: somebody changed them to what cannot be.
    """
    try:
        return Settings.from_dict(run.settings)
    except (TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the settings in {run.path / 'run.json'} are damaged ({reason}); restore a copy") from error


def _known(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def reset_seed(seed: int, iteration: int) -> int:
    """The seed that environments begin anew with at a checkpoint."""
    return (seed * 1_000_003 + iteration * 7_919 + 17) % (2**31 - 1)
