"""What this machine can do for backflip: versions, cores, GPU, renderers, database."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from backflip.envs.clips import renderers
from backflip.rundir import machine, versions
from backflip.store import Store, StoreError

Finding = tuple[str, str, bool]
"""(what, how it is, whether that is fine)."""


def examine(database: str | None = None) -> Iterator[Finding]:
    """Look at everything that a run may need, one finding at a time.

    Args:
        database: also look whether this PostgreSQL URL can be used.
    """
    for package, version in versions().items():
        yield package, version, version != "missing"
    about = machine()
    yield "processor", f"{about['processor']}, {about['cores']} cores", True
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (none is needed)"
    yield "GPU", gpu, True
    for name, milliseconds, note in renderers():
        told = f"{milliseconds:.1f} ms a frame; {note}" if milliseconds is not None else note
        yield f"renderer {name}", told.rstrip("; "), milliseconds is not None or name != "multiray"
    with TemporaryDirectory() as directory:
        yield _database("SQLite", Path(directory) / "run.db")
    if database:
        yield _database("PostgreSQL", database)


def _database(name: str, url: str | Path) -> Finding:
    started = time.perf_counter()
    try:
        store = Store(url)
        store.counts()
        store.close()
    except StoreError as error:
        return name, str(error), False
    return name, f"reachable, {1000 * (time.perf_counter() - started):.0f} ms to open", True


__all__ = ["Finding", "examine"]
