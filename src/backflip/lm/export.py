"""The tuned model of a run as an ordinary folder of transformers, with a page about it."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backflip import browsing
from backflip.exchange.bring_texts import UNDATED
from backflip.exchange.bundle import ExchangeError
from backflip.exchange.card import Findings, findings
from backflip.exchange.folders import is_licence, must_be_licence, new_folder
from backflip.files import DamagedFile, load_arrays
from backflip.lm.models import Causal, ModelError, adapted, put_back, quiet
from backflip.lm.reward import must_be_of
from backflip.lm.small import SMALL, SMOL, find, home
from backflip.lm.tune import ORIGINAL
from backflip.rundir import RunDir
from backflip.schema import LABEL
from backflip.settings import JUDGE, SCRIPTED, Settings, settings_of
from backflip.store import Store
from backflip.teachers.oracle import FALLIBLE

UNKNOWN = "unknown"
LAST = 10
"""Batches whose mean a measurement on the page is."""
SMOL_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOL_LICENCE = "apache-2.0"


@dataclass(frozen=True)
class Base:
    """The model that tuning began with, as it may be named to others: without a path of this machine."""

    name: str
    hub: str | None
    """Its id on the Hugging Face hub, where that is known."""
    licence: str
    """As the model itself states it, or unknown."""


@dataclass(frozen=True)
class Told:
    """What the page says of a run."""

    settings: Settings
    base: Base
    question: str
    kinds: dict[str, int]
    """Answers that stand, by the kind of their teacher."""
    found: Findings
    measured: dict[str, float]
    """Means of the last batches, by name."""
    completions: int


def export_model(run: RunDir, folder: Path, licence: str = UNKNOWN) -> list[Path]:
    """Write the newest checkpoint's model, adapters merged, with tokenizer and a page, into a new folder; its files.

    Args:
        licence: under which others may use it; by default the one that the base states, if it states one.

    Raises:
        ExchangeError: the run tunes no language model, has no checkpoint, its model cannot be loaded any more, the
            folder is not empty, or the licence is none.
    """
    must_be_licence(licence)
    settings = settings_of(run)
    try:
        causal = tuned(run)
    except (ModelError, DamagedFile) as error:
        raise ExchangeError(str(error)) from error
    with closing(run.store()) as store:
        told = _told(run, store, settings)
    with new_folder(folder) as temporary:
        with quiet():
            causal.model.save_pretrained(temporary)
            causal.tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(page(told, licence), encoding="utf-8")
    return sorted(folder.iterdir())


def tuned(run: RunDir) -> Causal:
    """The model of a run's newest checkpoint with ordinary weights: what adapters add is merged into them.

    Raises:
        ExchangeError: the run tunes no language model, or has no checkpoint yet.
        ModelError: the model that it began with is not there any more, or is another one.
        DamagedFile: the checkpoint cannot be read.
    """
    config = settings_of(run).tune
    if config is None:
        raise ExchangeError(f"{run.path} tunes no language model; its policy is no model to export")
    checkpoint = run.newest("act")
    if checkpoint is None:
        raise ExchangeError(f"{run.path} has no checkpoint yet; it writes one as it goes on, and one when it ends")
    causal = find(config.model)
    must_be_of(run.path / ORIGINAL, causal)
    policy = adapted(causal.model, config.lora_rank)
    file = checkpoint.path / "policy.safetensors"
    content, _ = load_arrays(file)
    prefix = "policy."
    put_back(policy, {name.removeprefix(prefix): v for name, v in content.items() if name.startswith(prefix)}, file)
    if policy is not causal.model:
        policy = policy.merge_and_unload()
    return Causal(policy.eval(), causal.tokenizer, causal.source)


def base_of(model: str) -> Base:
    """What is known of the model of that name."""
    if model == SMOL:
        return Base("SmolLM2-135M-Instruct", SMOL_HUB, SMOL_LICENCE)
    if model in SMALL:
        return Base(f"{model} (a small model, trained from made-up film reviews)", None, _stated(home() / model))
    path = Path(model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return Base(path.name, None, _licence_of_gguf(path))
    if path.exists():
        return Base(path.resolve().name, None, _stated(path))
    return Base(model, model, _licence_of_hub(model))


def _stated(folder: Path) -> str:
    """The licence that a folder's page states in its front matter."""
    try:
        page = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return UNKNOWN
    head = page.split("---", 2)[1] if page.startswith("---") and page.count("---") > 1 else ""
    stated = re.search(r"^licen[cs]e:[ \t]*[\"']?([A-Za-z0-9.+-]{1,60})[\"']?[ \t]*$", head, re.MULTILINE)
    return stated[1] if stated else UNKNOWN


def _licence_of_hub(name: str) -> str:
    """The same of a model that came from the hub, from what is kept of it here; nothing is asked for."""
    import huggingface_hub

    file = huggingface_hub.try_to_load_from_cache(name, "README.md")
    return _stated(Path(file).parent) if isinstance(file, str) else UNKNOWN


def _licence_of_gguf(path: Path) -> str:
    """The licence in a GGUF file's own fields."""
    import gguf

    field = gguf.GGUFReader(path).fields.get("general.license")
    stated = str(field.contents()) if field is not None else ""
    return stated if is_licence(stated) else UNKNOWN


def _told(run: RunDir, store: Store, settings: Settings) -> Told:
    config = settings.tune
    assert config is not None
    with store.reading() as c:
        given = [one for one in browsing.given(c) if one.purpose == LABEL]
    lines = run.metrics()[0]
    names = ("act/kl_exact", "act/kl_k1", "act/reward", "act/true_return", "act/beta", "act/completion_tokens")
    series = {name: [line["value"] for line in lines if line.get("name") == name][-LAST:] for name in names}
    return Told(
        settings=settings,
        base=base_of(config.model),
        question=" ".join(str(run.settings.get("question") or config.question or "").split()),
        kinds=dict(Counter(kind_of(one.teacher, one.at) for one in given)),
        found=findings(run, store),
        measured={name: sum(values) / len(values) for name, values in series.items() if values},
        completions=max((int(line["step"]) for line in lines if line.get("name") == names[0]), default=0),
    )


def kind_of(teacher: str, at: float) -> str:
    """Of which kind the teacher of an answer is, from the name and from when it was given: a key of `WHO`."""
    if teacher in FALLIBLE:
        return "oracle"
    return {JUDGE: "judge", SCRIPTED: "script"}.get(teacher, "file" if at == UNDATED else "people")


def page(told: Told, licence: str) -> str:
    """The page about a tuned model."""
    config = told.settings.tune
    assert config is not None
    answers = sum(told.kinds.values())
    held_out = "not measured" if told.found.held_out is None else f"{100 * told.found.held_out:.1f} %"
    prompts = "plain prompts without marks of a beginning or a dialogue"
    if config.chat:
        prompts = "prompts that are a user's turn in its chat template"
    kinds = _rows((f"{kind} ({WHO[kind]})", f"{told.kinds.get(kind, 0):,}") for kind in WHO)
    return f"""{_front_matter(told, licence)}
# {told.base.name}, tuned on {answers:,} comparisons

A language model tuned with [backflip](https://arxiv.org/abs/1706.03741)'s method: somebody chose between pairs of its
completions, an ensemble of small networks (r̂) learned from the choices what is better, and the model was paid by r̂
while it was kept near the model that it began with.

## What it was taught

| | |
|---|---|
| base model | {told.base.name} |
| task | {told.settings.task} |
| asked was | {told.question.replace("|", "/") or "not recorded"} |
| algorithm | {config.algorithm}, {told.completions:,} completions of at most {config.response_tokens} tokens |
| temperature | {config.temperature:g} |

| answers that stand, by kind of teacher | answers |
|---|---|
{kinds}

## How far it went, and how good r̂ is

| of the last batches | |
|---|---|
| KL to the base, over the whole vocabulary | {_figure(told, "act/kl_exact", "nats a completion")} |
| the budget of KL | {config.kl_target:g} nats a completion |
| r̂ of its completions, in deviations of the base's, whose mean is 0 | {_figure(told, "act/reward", "")} |
| tokens of a completion | {_figure(told, "act/completion_tokens", "")} |
| held-out accuracy of r̂: decided answers that a member was not fitted to | {held_out} |
| agreement of r̂ with decided answers, predicted before anybody answered | {told.found.predicted} |
| agreement between teachers, decided answers to one pair | {told.found.between} |

## How to use it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("this folder"), AutoTokenizer.from_pretrained("this folder")
```

It was tuned on {prompts}, and sampled at temperature
{config.temperature:g} without top-k, top-p and penalties; KL and r̂ above are of such completions.

## Intended use

Research on learning from human preferences, and completing prompts like those that it was tuned on.

## Limits

- It does what r̂ rewards, and r̂ repeats the mistakes and tastes of its teachers; on text far from what was compared its
  numbers mean nothing. A high r̂ is no proof that people like what they read: read completions.
- All limits of the base model remain. What it states as facts may be false.

## Licence

{_licence_said(told.base, licence)}
"""


WHO = {
    "people": "who read completions",
    "judge": "another language model",
    "script": "a program",
    "oracle": "a synthetic measure in people's place",
    "file": "brought in from a file that does not say who",
}
"""Kinds of teachers, and what each is."""


def _figure(told: Told, name: str, unit: str) -> str:
    return f"{told.measured[name]:.3g} {unit}".strip() if name in told.measured else "not measured"


def _rows(pairs: Any) -> str:
    return "\n".join(f"| {left} | {right} |" for left, right in pairs)


def _licence_said(base: Base, licence: str) -> str:
    of_base = f"The base model's, as it states it: {base.licence}."
    if base.licence == UNKNOWN:
        of_base = "The base model's: unknown, it states none; find out before you pass this model on."
    return of_base if licence == UNKNOWN else f"{licence}. {of_base}"


def _front_matter(told: Told, licence: str) -> str:
    """What a catalogue of models reads; JSON is YAML too, so that no text in it can break out."""
    fields: dict[str, str | Sequence[str]] = {
        "license": told.base.licence if licence == UNKNOWN else licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "human-preferences", "backflip", told.settings.task],
    }
    if told.base.hub:
        fields["base_model"] = told.base.hub
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])
