"""The command ``codec``: encode, decode, info, verify, models, eval, demo, train, and the codecs' own groups.

Nothing here names a codec: they are found in the registry. Nothing imports numpy or torch before a command needs it, so that
help and ``codec info`` answer at once.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from multiprocessing import active_children
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ...entropy_models.errors import InputError, MissingPackage
from .. import REGISTRY, found, load_face, registered, weights
from ..contract import Demonstrated, Desk
from ..terminal.console import TRACEBACK, bar, fail, message, out
from ..terminal.files import check_outputs, show_size
from ..terminal.options import Device, Force
from .convert import decode, encode, info, verify
from .evaluate import app as evaluate
from .info import field_table
from .signature import faces, owners, refuse_others, with_options

ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a command to end."""
CONVERSIONS = {"encode", "decode", "verify", "info"}
COLLECTED_AFTER = 1_000_000
"""Objects after which Python looks for cycles, which conversions do not make. With its own 700 that is a tenth of the time
in which torch is imported."""


def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    traceback: Annotated[bool, typer.Option(TRACEBACK, help="Show where an error came from.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        out.print(f"rdcodec {version_of('rdcodec')}")


def models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """List the weights that are installed or in folders that RDCODEC_WEIGHTS names; the first of a codec is its default."""
    from dataclasses import asdict

    lines = weights.manifest().values()
    if as_json:
        out.print_json(json.dumps([asdict(line) for line in lines]))
        return
    for line in lines:
        fields = {"codec": line.codec, "size": show_size(line.file_bytes)}
        fields |= {"in streams": line.stream_hash.hex(), "trained on": line.data, "training": line.hardware}
        out.print(field_table(line.name, fields | {"licence": line.licence}))


def demo(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CODEC] [FILE]", help="Which codec, else the first; a file of yours, else a sample."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("codec-demo"),
    device: Device = "auto",
    effort: Annotated[
        int | None, typer.Option(min=0, max=9, help="Time for refining, 0 (none) to 9; by default what suits the codec.")
    ] = None,
    force: Force = False,
) -> None:
    """Show what a codec does, on a sample or a file of yours, in files to look at."""
    given = list(names or ())
    shown = [name for name in REGISTRY if hasattr(load_face(name), "demo")]
    name = given.pop(0) if given and given[0] in REGISTRY else shown[0]
    if name not in shown:
        raise InputError(f"no demonstration of {name}; there are {', '.join(shown)}")
    if len(given) > 1:
        raise InputError(f"one file, not {len(given)}")
    face: Demonstrated = found(registered(name).face)
    refuse_others(load_face(name), "Encode", {"effort": effort}, device)
    check_outputs(output, face.shown, force)
    refining = {"effort": effort} if load_face(name) in owners("Encode", "effort") else {}
    with bar() as progress:
        task = progress.add_task("loading", total=None)
        source = Path(given[0]) if given else None
        shows = face.demo(source, output, Desk(device), lambda text: progress.update(task, description=text), **refining)
    for part in shows:
        out.print(part)


def train(context: typer.Context) -> None:
    """Train a codec with Lightning: `codec train CODEC --config RECIPE.yaml [--model.OPTION ...]`.

    Needs the extra: pip install 'rdcodec[train]'. Recipes ship in rdcodec/training/recipes; `codec train CODEC fit --help`
    lists every option, which are Lightning's.
    """
    name, *arguments = context.args or ["--help"]
    if name == "--help":
        out.print(context.get_help())
        return
    try:
        from ...training.main import train as run
    except ImportError as error:
        raise MissingPackage(f"training needs more packages ({error}): pip install 'rdcodec[train]'") from None
    run(name, arguments)


class Program(TyperGroup):
    """The group of all commands, for which a value that an option cannot have is bad input, like a bad file: one line.

    Unknown options and missing arguments are wrong usage.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if type(error) is not typer.BadParameter:  # a missing one
                raise
            raise InputError(refused(error)) from None


def refused(error: typer.BadParameter) -> str:
    """The option, what was found and what is expected, of a value that it cannot have."""
    name = error.param.opts[0] if error.param else ""
    wrong: list[Any] = getattr(error.__cause__, "errors", list)()  # pydantic's, whose texts leave out the value
    given = [name, *(str(one["input"]) for one in wrong[:1])]
    text = error.message.rstrip(".")
    return f"{' '.join(given)}: {text[:1].lower()}{text[1:]}" if name else text


def program() -> typer.Typer:
    """The command with all its parts, for the codecs that are registered now."""
    app = typer.Typer(
        cls=Program,
        help="Learned compression to .rdc files and back: " + ", ".join(face.people for face in faces()) + ".",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        add_completion=True,
    )
    app.callback(invoke_without_command=True)(top)
    for verb, command in (("Encode", encode), ("Decode", decode), ("Verify", verify)):
        app.command()(with_options(verb, command))
    app.command()(info)
    app.command()(models)
    app.command()(demo)
    app.add_typer(evaluate, name="eval")
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(context_settings=passed_on)(train)
    for name, line in REGISTRY.items():
        if line.group:
            app.add_typer(found(line.group), name=name, no_args_is_help=True)
    return app


if not any(argument.startswith("--threads") for argument in sys.argv):  # who asks for them has the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Threads that wait for each other leave the core to others. To be set before torch is imported, and nobody else's."""
if CONVERSIONS & {*sys.argv[1:2]}:
    gc.set_threshold(COLLECTED_AFTER)
app = program()


def main() -> None:
    """Entry point: 0 success, 1 bad data or values (one line on standard error), 2 wrong usage."""
    try:
        app([argument for argument in sys.argv[1:] if argument != TRACEBACK], prog_name="codec")
    except Exception as error:
        if TRACEBACK in sys.argv:
            raise
        fail(error)
        if "--json" in sys.argv:
            out.print(json.dumps({"error": message(error)}))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def command() -> None:
    """`main`, as the program ``codec``. Who ends it by a signal gets no half of a file, as with Ctrl-C."""
    for number in ENDS:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores one of them
            signal.signal(number, _end)
    try:
        main()
    except SystemExit as end:
        status = 128 + _ended[0] if _ended else end.code
        if not isinstance(status, int | None):
            raise
        leave(status or 0)
        sys.exit(status)
    leave()


_ended: list[int] = []
"""The signal that ended the program."""


def _end(number: int, _: FrameType | None) -> NoReturn:
    for other in (*ENDS, signal.SIGINT):  # one more would end the cleaning up
        signal.signal(other, signal.SIG_IGN)
    _ended.append(number)
    raise KeyboardInterrupt  # SystemExit, in a function that PyAV calls, would end the program there and then


def leave(status: int = 0) -> None:
    """End a converting program immediately: to take torch apart lasts a tenth of a second, and threads may be in the middle
    of what nobody waits for any more. Processes that are still at work are waited for."""
    if CONVERSIONS & {*sys.argv[1:2]} and not active_children():
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream:  # None: it is closed
                    stream.flush()
            except OSError:
                status = status or 1
        os._exit(status)
