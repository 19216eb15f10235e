"""What all commands share: how arguments look, where they print, and what to say of one that cannot be."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

Number = tyro.conf.arg(metavar="N", help_behavior_hint="")
File = tyro.conf.arg(metavar="PATH", help_behavior_hint="")
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

out = Console()


class Unusable(Exception):
    """Something on the command line that cannot be; the message says what and what to do."""
