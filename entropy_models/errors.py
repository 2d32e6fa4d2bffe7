"""Errors that callers can mend: bad data, one subclass per way to be wrong, and bad input. Any other error is a bug."""

from __future__ import annotations

from collections.abc import Sequence


class BitstreamError(ValueError):
    """The bytes are not a stream this version can decode. ``decode`` raises nothing else."""


class Truncated(BitstreamError):
    """The data ends before the structure it announces."""


class Corrupt(BitstreamError):
    """A checksum, a range or a relation between fields does not hold."""


class Unsupported(BitstreamError):
    """Well formed, but of a version, codec, or set of weights that is not here."""


class Mismatch(Unsupported):
    """Well formed and readable, but of another model, tenant or profile than the one given."""


def raise_first(errors: Sequence[BitstreamError], chunks: int) -> None:
    """Raise the first error, if there is one; it tells how many more of so many chunks are damaged."""
    if errors:
        more = f" (and {len(errors) - 1} more of {chunks} chunks)" if len(errors) > 1 else ""
        raise type(errors[0])(f"{errors[0]}{more}")


class InputError(ValueError):
    """A signal, an option or a setting that a codec does not take; the message has what was found and what was expected."""


class UnknownName(InputError, KeyError):
    """No codec, model or mode has that name; the message lists those there are."""

    __str__ = ValueError.__str__


class MissingPackage(InputError, ImportError):
    """A package that an extra installs is missing; the message says which extra."""
