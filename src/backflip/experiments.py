"""Named runs as values: after each number where it comes from."""

from backflip.settings import Settings

EXPERIMENTS: dict[str, Settings] = {
    # 900 labels in less than an hour taught the paper's Hopper its backflip (§3.2); a run is ended by whoever teaches.
    "demo": Settings(task="hopper-backflip", teacher="people", labels=900, steps=100_000_000),
    # The paper's middle budget, the one nearly as good as the true reward on all tasks (§3.1.1, figure 2). Its runs
    # take 20 million steps; here a tenth, which is where its curve for this task is still rising.
    "cheetah-700": Settings(task="cheetah", teacher="oracle", labels=700, steps=2_000_000, mode="in_turn"),
    # Small enough for a first look: less than a minute on one core.
    "pendulum-200": Settings(task="Pendulum-v1", teacher="oracle", labels=200, steps=300_000, mode="in_turn"),
}

PEOPLE_STEPS = 100_000_000
"""Where people teach, they end the run; this is only a bound, some three hours of a laptop's core."""
ORACLE_STEPS = 2_000_000
"""Some three minutes of a laptop's core."""
