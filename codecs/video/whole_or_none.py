"""Files that are there when all of them is written, and not before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self


class WholeOrNone(ABC):
    """Writer of a file; a context manager. What fails before it is closed ends what is in ``_stack`` with the error, which
    leaves no file."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    @abstractmethod
    def _finish(self) -> None:
        """Write what is left."""

    def close(self) -> None:
        """Write what is left, and put the file in its place.

        Raises:
            InputError: no frame was written.
        """
        with self._ending_on_error():
            self._finish()
        self._stack.close()

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._stack.__exit__(kind, error, trace)
