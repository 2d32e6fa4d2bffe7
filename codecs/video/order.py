"""The order in which a group's frames are coded, and what each refers to. No torch here.

Frames at even distances are anchors, each coded with the anchor before it. What lies between two of them is a pyramid: the
frame in the middle first, with both as references, then the middles of either half, and so on (hierarchical B frames;
Schwarz, Marpe & Wiegand, "Analysis of Hierarchical B Pictures and MCTF", ICME 2006). Without pyramids every frame is an
anchor, and each comes out as soon as it goes in.

    shown    0  1  2  3  4  5  6  7  8
    coded    0  4  3  5  2  7  6  8  1      anchors 8 apart: 0 and 8, then 4, 2, 1, 3, 6, 5, 7
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple


class Place(NamedTuple):
    """A frame of a group, by its number there."""

    number: int
    before: int | None
    """The reference that is shown before it; None: the group's first frame has none."""
    after: int | None
    """The reference that is shown after it; None: an anchor has none."""
    depth: int
    """0 for anchors, 1 for the middle between two, and so on."""

    @property
    def references(self) -> tuple[int, ...]:
        return tuple(number for number in (self.before, self.after) if number is not None)

    @property
    def nearest(self) -> int | None:
        """The nearest reference, of two as near the one before."""
        if self.before is None or self.after is None:
            return self.before
        return self.before if 2 * self.number <= self.before + self.after else self.after


@lru_cache(maxsize=64)
def order_of(frames: int, distance: int) -> tuple[Place, ...]:
    """The frames of a group in the order of their coding.

    Args:
        distance: frames from one anchor to the next; the last may be nearer.
    """
    places = [Place(0, None, None, 0)]
    for anchor in range(0, frames - 1, distance):
        following = min(anchor + distance, frames - 1)
        places.append(Place(following, anchor, None, 0))
        places += _between(anchor, following, 1)
    return tuple(places)


def _between(before: int, after: int, depth: int) -> list[Place]:
    middle = (before + after) // 2
    if middle == before:
        return []
    return [Place(middle, before, after, depth), *_between(before, middle, depth + 1), *_between(middle, after, depth + 1)]


def needed(places: Sequence[Place], wanted: Collection[int]) -> tuple[set[int], int]:
    """Numbers of the frames whose pixels must be decoded to see the wanted ones, and of how many, from the first place on,
    the symbols."""
    found = set(wanted)
    for place in reversed(places):
        if place.number in found:
            found.update(place.references)
    return found, 1 + max(index for index, place in enumerate(places) if place.number in found)


def needed_until(places: Sequence[Place]) -> dict[int, int]:
    """The index of the last place that is a frame or refers to it, by the frame's number."""
    return {number: index for index, place in enumerate(places) for number in (place.number, *place.references)}
