"""What this machine can do for backflip: versions, cores, GPU, renderers, database."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from backflip import __version__
from backflip.database import must_be_postgresql
from backflip.envs.clips import renderers
from backflip.rundir import machine, versions
from backflip.store import Store, StoreError

Finding = tuple[str, str, bool | None]
"""(what, how it is, whether that is fine: None for what is not there and not needed)."""
EXTRAS = {"mujoco": "the paper's robots need it: pip install 'backflip[mujoco]'"}
"""Packages that backflip works without, and who needs them."""


def examine(database: str | None = None) -> Iterator[Finding]:
    """Look at everything that a run may need, one finding at a time.

    Args:
        database: also look whether this PostgreSQL URL can be used.
    """
    yield "backflip", __version__, True
    for package, version in versions().items():
        if package == "backflip":
            continue  # run from its source, it is not known as installed
        if version == "missing" and package in EXTRAS:
            yield package, f"not installed; {EXTRAS[package]}", None
        else:
            yield package, version, version != "missing"
    about = machine()
    yield "processor", f"{about['processor']}, {about['cores']} cores", True
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (none is needed)"
    yield "GPU", gpu, True
    for name, milliseconds, note in renderers():
        if milliseconds is None:
            yield f"renderer {name}", f"not usable ({note})", None
        else:
            yield f"renderer {name}", f"{milliseconds:.1f} ms a frame; {note}", True
    with TemporaryDirectory() as directory:
        yield _database("SQLite", Path(directory) / "run.db")
    if database is not None:
        yield _database("PostgreSQL", database)


def _database(name: str, url: str | Path) -> Finding:
    started = time.perf_counter()
    try:
        if isinstance(url, str):
            must_be_postgresql(url)
        store = Store(url)
        store.counts()
        store.close()
    except (StoreError, ValueError) as error:
        return name, str(error), False
    return name, f"reachable, {1000 * (time.perf_counter() - started):.0f} ms to open", True


__all__ = ["Finding", "examine"]
