"""A count of work, for tests of what a call may cost: the same on every machine, busy or not. No tests here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Work(TorchFunctionMode):
    """Adds up the elements of every tensor that PyTorch's functions return within the context."""

    elements = 0

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements += result.numel()
        return result
