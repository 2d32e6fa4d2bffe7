"""Bits of what is read."""

from __future__ import annotations

from torch import Tensor

from ...entropy_models.coder import Coder, Measure
from ...entropy_models.tables import Tables


class Counted:
    """A coder that counts the ideal bits of what another one reads."""

    def __init__(self, reader: Coder, tables: Tables) -> None:
        self._reader, self._told = reader, 0.0
        self._measure = Measure(tables)  # whole numbers stay what they are in any dead zone

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """`Coder.code`."""
        return self._measure.code(self._reader.code(residual, level, active, side=side), level, active, side=side)

    def more_bits(self) -> float:
        """Bits since this was asked last."""
        before, self._told = self._told, float(self._measure.bits[0])
        return self._told - before
