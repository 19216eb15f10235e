"""Teach an agent by choosing between clips: deep reinforcement learning from human preferences."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from backflip.api import load_reward, train

__all__ = ["__version__", "load_reward", "train"]


def __getattr__(name: str) -> Any:
    """Load the public functions when first used: the page's server lives in this package too and needs no torch."""
    if name in ("load_reward", "train"):
        from backflip import api

        return getattr(api, name)
    raise AttributeError(f"module 'backflip' has no attribute {name!r}")
