"""The catalog of a store that has none and takes none: every block's header is read when the store is opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

from .lines import Line


class NoCatalog:
    """Knows nothing, keeps nothing."""

    far = True
    longest = 0

    def outdated(self) -> list[str]:
        """Everything."""
        return [""]

    def compared(self, part: str) -> None:
        """Nothing is kept."""

    def writing(self, block: bytes) -> AbstractContextManager[None]:
        """Nothing is watched."""
        return nullcontext()

    def sizes(self, part: str) -> dict[bytes, int]:
        """None."""
        return {}

    def around(self, places: list[tuple[bytes, bytes]]) -> list[list[Line]]:
        """None."""
        return [[] for _ in places]

    def lines(self) -> Iterator[Line]:
        """None."""
        return iter(())

    def write(self, added: Iterable[Line], removed: Iterable[bytes]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""

    def reset(self) -> None:
        """Nothing is there."""
