"""Options of a command that every codec may add to: declared by the faces, merged into one signature for typer.

An option of one codec stands in that codec's panel of the help, one of several in a panel that they share. The command gets
what was given as one set of names, gives each codec its own, and refuses what the found codec does not have.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from copy import copy
from functools import cache, wraps
from typing import Annotated, Any, get_args, get_type_hints

from ...entropy_models.errors import InputError
from .. import REGISTRY, load_face
from ..contract import Face

SEVERAL = "Several codecs"
"""Panel of the options that more than one has."""
Given = Mapping[str, Any]
"""Values by option, defaults among them."""


@cache
def faces() -> tuple[Face, ...]:
    """Faces of all codecs, in the registry's order."""
    return tuple(load_face(name) for name in REGISTRY)


def with_options(verb: str, command: Callable[..., None]) -> Callable[..., None]:
    """A command that has the fields of every face's dataclass ``verb`` (``Encode``) as options, beside its own.

    It takes them as ``**given``. A parameter of its own whose type is a dataclass stands for its fields.

    Raises:
        TypeError: two faces declare one option with different types, flags or defaults.
    """

    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}
    plain = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = [p.replace(annotation=hints[p.name]) for p in plain if p.name not in groups]
    own += [_parameter(*item) for kind in groups.values() for item in _annotated(kind)]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *_merged(verb))]

    @wraps(command)
    def extended(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field: given.pop(field) for field, _, _ in _annotated(kind)})
        command(**given)

    extended.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    extended.__annotations__ = {p.name: p.annotation for p in parameters}
    extended.__doc__ = f"{command.__doc__}{_examples(verb)}"
    return extended


def owners(verb: str, option: str) -> list[Face]:
    """The faces that have an option."""
    return [face for face in faces() if option in _fields(face, verb)]


def options_of(face: Face, verb: str, given: Given) -> Any:
    """What was given, as the face takes it: its own dataclass, which checks what can be checked without a file."""
    kind = getattr(face, verb)
    return kind(**{name: given[name] for name in _fields(face, verb)})


def refuse_others(face: Face, verb: str, given: Given, device: str) -> None:
    """ValueError that names the options which are given and which this codec does not have: they would be ignored."""
    fields = _fields(face, verb)
    others = {name for name, value in given.items() if name not in fields and value not in (None, False)}
    strange = {name: owners(verb, name) for name in given if name in others}
    if device not in ("auto", "cpu") and not face.cuda:
        strange["device"] = [other for other in faces() if other.cuda]
    if strange:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in strange)
        people = " and ".join(dict.fromkeys(face.people for owning in strange.values() for face in owning))
        raise InputError(f"{names}: only for {people}, and this is {face.single}")


def _fields(face: Face, verb: str) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(getattr(face, verb))}


def _merged(verb: str) -> list[inspect.Parameter]:
    """One parameter for each option of any face."""
    found: dict[str, inspect.Parameter] = {}
    for face in faces():
        for name, hint, default in _annotated(getattr(face, verb)):
            kind, option = get_args(hint)
            option, people = copy(option), [owner.people for owner in owners(verb, name)]
            option.rich_help_panel = SEVERAL if len(people) > 1 else people[0][0].upper() + people[0][1:]
            if len(people) > 1:
                option.help = _shared_help(verb, name)
            parameter = _parameter(name, Annotated[kind, option], default)
            if name in found and _declared(found[name]) != _declared(parameter):
                raise TypeError(f"option {name} of {verb} is declared in two ways, the other one by {face.people}")
            found.setdefault(name, parameter)
    return list(found.values())


def _shared_help(verb: str, name: str) -> str:
    """Help of an option that several codecs have: one text and whose it is, or what each says of it."""
    texts: dict[str, list[str]] = {}
    for face in owners(verb, name):
        option = get_args(get_type_hints(getattr(face, verb), include_extras=True)[name])[1]
        texts.setdefault(option.help, []).append(face.people)
    if len(texts) == 1:
        return "".join(f"{text} Of {' and '.join(people)}." for text, people in texts.items())
    parts = [f"{' and '.join(people)}: {text}" for text, people in texts.items()]
    return " ".join(part[0].upper() + part[1:] for part in parts)


def _annotated(kind: type) -> list[tuple[str, Any, Any]]:
    """Name, annotation and default of each field of a dataclass of options."""
    hints = get_type_hints(kind, include_extras=True)
    return [(field.name, hints[field.name], field.default) for field in dataclasses.fields(kind)]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _examples(verb: str) -> str:
    """Lines of every face, for the help."""
    lines = [line for face in faces() for line in face.examples.get(verb, ())]
    return "\n\n    Examples:\n\n    ```\n" + "".join(f"    {line}\n" for line in lines) + "    ```" if lines else ""


def _declared(parameter: inspect.Parameter) -> tuple[Any, ...]:
    """What must agree where several codecs have one option."""
    kind, option = get_args(parameter.annotation)
    return kind, option.param_decls, option.min, option.max, parameter.default
