"""How far r̂ can be trusted now: how well it foresees answers to fresh pairs, and the alarm for reward hacking."""

from backflip.alarm import reward_hacking
from backflip.predictions import WINDOW, Outcome, agreement, decided, outcomes
from backflip.rundir import RunDir
from backflip.store import Store

PREDICTED_RETURN = "act/predicted_return"


class Trust:
    """Compares what r̂ had predicted with what was answered, and raises the alarm."""

    def __init__(self, run: RunDir, store: Store) -> None:
        self.run, self.store = run, store
        self._returns: list[tuple[int, float]] = []
        self._position = 0

    def look(self) -> dict[str, float]:
        """Measurements of this moment; also tells the page what the alarm says."""
        self._read_returns()
        found = outcomes(self.store.preferences())
        alarm = reward_hacking(self._returns, found)
        self.run.tell("alarm", on=alarm.on, since=alarm.since, sentence=alarm.sentence, advice=alarm.advice)
        return {**_agreement(found), "ask/alarm": float(alarm.on)}

    def _read_returns(self) -> None:
        """What was measured since the last look; all of it anew where the run went back to a checkpoint."""
        if self.run.metrics_position() < self._position:
            self._returns, self._position = [], 0
        lines, self._position = self.run.metrics(self._position)
        self._returns += [(line["step"], line["value"]) for line in lines if line["name"] == PREDICTED_RETURN]


def _agreement(found: list[Outcome]) -> dict[str, float]:
    """Of the newest answers; nothing before the first that chose a side and was predicted."""
    newest = [outcome for outcome, _ in decided(found)[-WINDOW:]]
    if not newest:
        return {}
    now = agreement(newest)[-1]
    return {"ask/agreement": now.share.value, "ask/confidence": now.confidence, "ask/surprise": now.surprise}
