"""Teachers: whoever answers open queries, when they like. §2.2.2

An oracle answers all that are open at once; people answer through the page, whenever they are there.
"""

from typing import Protocol, runtime_checkable

from backflip.store import Store


@runtime_checkable
class Teacher(Protocol):
    """Someone who answers open queries."""

    name: str

    def teach(self, store: Store) -> int:
        """Answer some open queries; return how many."""
