"""What all commands share: options, diagnostics on stderr, JSON on stdout, exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from math import isfinite
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

import dsl
import parc
from dsl import limits
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError, fail
from dsl.files import load
from dsl.printable import printable
from dsl.render import render, to_json
from dsl.source import Source
from parc.api import OURS, Options, is_program, is_stage
from parc.cli import BUG, LIMIT, UNMET, show_failure
from parc.cli.room import let_go, require_little

SCHEMA = 1
FAILED = 1

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Sources(Mapping[str, Source]):
    """The files that spans speak of, read when a message wants to show a line of them."""

    def __init__(self) -> None:
        self._known: dict[str, Source | None] = {}

    def add(self, source: Source) -> None:
        self._known[source.name] = source

    def __getitem__(self, name: str) -> Source:
        if name not in self._known:
            self._known[name] = _read(name)
        source = self._known[name]
        if source is None:
            raise KeyError(name)
        return source

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _read(name: str) -> Source | None:
    try:
        if name.startswith("<std>/"):
            file = load(Path(dsl.__path__[0]) / "std" / name.removeprefix("<std>/"))
            return Source(name, file.text)
        return load(name)
    except ParcError:
        return None


@dataclass
class Output:
    """Where a command puts what it found: `say` for people (stderr), `data` for programs (stdout).

    Where JSON was asked for, one object on stdout takes the place of both.
    """

    command: str
    json: bool = False
    sources: Sources = field(default_factory=Sources)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    result: Any = field(default_factory=dict)
    begun: Diagnostic | None = None
    end_bar: Callable[[], None] = lambda: None

    def warn(self, diagnostics: tuple[Diagnostic, ...] | list[Diagnostic]) -> None:
        """Report diagnostics, each once: of two things that are compared both may have it."""
        new = [d for d in dict.fromkeys(diagnostics) if d not in self.diagnostics]
        self.diagnostics += new
        if new and not self.json:
            text = render(new, self.sources, color(sys.stderr))
            if self.begun is not None and self.begun == replace(new[0], help=None):
                text = text[len(render([self.begun], self.sources, color(sys.stderr))) :]
            click.echo(text, err=True)

    def begin(self, diagnostic: Diagnostic) -> None:
        """Print the first of what will be warned of, all but its help, which takes seconds to find."""
        if self.begun is None and not self.json:
            self.end_bar()
            self.begun = replace(diagnostic, help=None)
            click.echo(render([self.begun], self.sources, color(sys.stderr)), nl=False, err=True)
            sys.stderr.flush()

    def say(self, text: str = "") -> None:
        """A line for people, on stderr."""
        if not self.json:
            click.echo(printable(text, styled=True), err=True)

    def fail(self, message: str, help: str | None = None) -> None:
        """An error that is not in the file, so that it has no code."""
        self.diagnostics.append(Diagnostic("", message, help=help))
        self.say(f"error: {message}")

    def data(self, text: str, newline: bool = True) -> None:
        """What the command was asked for, on stdout."""
        if not self.json:
            click.echo(text, nl=newline)

    def finish(self, code: int) -> int:
        """Print the JSON object, if there is to be one; the exit code."""
        if self.json:
            head = {"parc": parc.__version__, "schema": SCHEMA, "command": self.command, "exit": code}
            found = {"diagnostics": to_json(self.diagnostics, self.sources)}
            click.echo(json.dumps({**head, **found, "result": _finite(self.result)}, indent=2, allow_nan=False))
        return code


def _finite(value: object) -> object:
    """JSON has no infinity and no NaN: null stands for them."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value


class Command(click.Command):
    """A command whose callback takes an `Output` first and returns True (or None) if all is well, else False."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Where JSON is asked for, what is wrong with the arguments is told in it."""
        assert self.name is not None
        out = Output(self.name, json="--json" in args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.ClickException as error:
            if not out.json:
                raise
            raise click.exceptions.Exit(_told(out, error)) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What is given twice and can be but one is refused: click would take the last."""
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            single = [p for p in order if isinstance(p, click.Option) and not p.multiple and not p.is_flag]
            for option in single:
                if single.count(option) > 1:
                    raise click.UsageError(f"`{option.opts[-1]}` is given twice", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> int:
        assert self.callback is not None and self.name is not None
        out = Output(self.name, bool(ctx.params.pop("json", False)))
        try:
            require_little(self.name)
            fine = ctx.invoke(self.callback, out, **ctx.params)
            return out.finish(FAILED if fine is False else 0)
        except ParcError as error:
            out.warn(error.diagnostics)
            return out.finish(_code(error.diagnostics))
        except MemoryError as error:
            let_go(error)
            from parc.machine import out_of_memory

            out.warn([out_of_memory(is_program(str(ctx.params.get("file", ""))))])
            return out.finish(LIMIT)
        except click.ClickException as error:
            if not out.json:
                raise
            return _told(out, error)
        except (click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if not out.json or isinstance(error, OSError):
                raise
            from parc.needs import unmet

            if (need := unmet(error)) is not None:
                out.fail(need.what, f"`{need.command}`")
                return out.finish(UNMET)
            return out.finish(show_failure(error, debug=bool(ctx.find_root().params.get("debug"))))


def _told(out: Output, error: click.ClickException) -> int:
    """The JSON object of an error that click would print; the exit code."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    out.fail(error.format_message(), f"`{ctx.command_path} --help` shows how it is used" if ctx else None)
    return out.finish(error.exit_code)


def _code(diagnostics: Sequence[Diagnostic]) -> int:
    """The exit code of a command that these diagnostics ended."""
    if any(OURS in d.notes for d in diagnostics):
        return BUG
    return LIMIT if any(d.limit for d in diagnostics) else FAILED


def color(stream: IO[str]) -> bool:
    """Whether to colour what is written there."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# --- options -------------------------------------------------------------------------------------------

json_option = click.option("--json", is_flag=True, help="Print one JSON object (docs/cli.md) instead of text.")


if TYPE_CHECKING:
    _Pair = click.ParamType[tuple[str, str]]
else:
    _Pair = click.ParamType  # takes a parameter since click 8.3.2 only


class Assignment(_Pair):
    """`name=value` on the command line; the value is checked where the parameter is declared."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, text = str(value).partition("=")
        if not equals or not name.strip().isidentifier() or not text.strip():
            self.fail(f"`{value}` is not of the form name=value", param, ctx)
        return name.strip(), text.strip()


def each_once(
    ctx: click.Context, param: click.Parameter, given: tuple[tuple[str, T], ...]
) -> tuple[tuple[str, T], ...]:
    """Of what has the form name=value, each name is given once (`0` and `00` are one number)."""
    seen: set[str] = set()
    for name, _ in given:
        same = str(int(name)) if name.isdecimal() else name
        if same in seen:
            raise click.BadParameter(f"`{name}` is given twice", ctx, param)
        seen.add(same)
    return given


def params_option(function: F) -> F:
    """`-D name=value`, once for each name."""
    what = "Set a `param` of the file."
    return click.option("-D", "params", multiple=True, type=Assignment(), callback=each_once, help=what)(function)


class Name(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """The name of a job, a strategy or a device; an empty one, as of a shell variable that is not set, is none."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).strip():
            self.fail("the name is empty", param, ctx)
        return str(value)


def job_options(function: F) -> F:
    """Which job of the file, with which parameters and strategy; and how to report."""
    for option in (
        json_option,
        click.option("--job", metavar="NAME", type=Name(), help="The job, if the file has several."),
        click.option("--strategy", metavar="NAME", type=Name(), help="Use this strategy instead of the job's own."),
        params_option,
    ):
        function = option(function)
    return function


LONGEST = 1e6
"""Seconds that a command can be told to wait for others: sockets and clocks count milliseconds in 32 bits."""


class NumberRange(click.FloatRange):
    """A range of numbers, of which `nan` is none: no comparison keeps it out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = super().convert(value, param, ctx)
        if found != found:
            self.fail(f"{value!r} is not a number", param, ctx)
        return float(found)


def file_argument(function: F) -> F:
    """The `.par` file, `-` for standard input."""
    return click.argument("file", type=click.Path(allow_dash=True))(function)


def _output(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """`-` is standard output, as without the option."""
    if value == "":
        raise click.BadParameter("the name of a file is empty", ctx, param)
    return None if value == "-" else value


def output_option(function: F) -> F:
    """`-o OUT`; the command calls `check_output` before it works, and `write_output`."""
    what = "Write to this file instead of standard output; gzip if its name ends in .gz."
    return click.option("-o", "--output", metavar="OUT", callback=_output, help=what)(function)


def choice(out: Output, params: tuple[tuple[str, str], ...], job: str | None, strategy: str | None) -> Options:
    """What the options of `job_options` say. Warnings go to `out`."""
    return {"params": dict(params), "job": job, "strategy": strategy, "warned": lambda warning: out.warn([warning])}


@contextmanager
def smaller_named(source: Source, options: Options) -> Iterator[None]:
    """What is too long to be drawn is refused with the parameters that make it shorter."""
    try:
        yield
    except ParcError as error:
        if not any(d.limit for d in error.diagnostics):
            raise
        from parc.api.compiling import sizes
        from parc.smaller import told_smaller

        raise ParcError(*(told_smaller(d, sizes(source, options)) for d in error.diagnostics)) from None


evaluate_option = click.option(
    "--evaluate", is_flag=True, help="The forward pass alone, to the loss, the metrics and the outputs."
)


def entry_of(evaluate: bool) -> Options:
    """What `evaluate_option` says."""
    return {"entry": "evaluate"} if evaluate else {}


def check_program(out: Output, file: str, **given: object) -> bool:
    """Whether the file is a lowered program. Raises click.UsageError for options that such a one has no use for: it was
    lowered for one job, with its parameters and strategy. given: the options' values, by name.
    """
    if not is_program(file) and not is_stage(file):
        return False
    for name, value in given.items():
        if value:
            option = {"params": "-D"}.get(name, f"--{name}")
            what = "a lowered program" if is_program(file) else "the text of a stage"
            was = f"`{file}` is {what}, of one job with its parameters and its strategy"
            raise click.UsageError(f"{was}: `{option}` goes with the `.par` file")
    return is_program(file)


def set_threads(number: int) -> None:
    """Threads of linear algebra. Takes effect only before numpy is loaded: commands import it after this."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(number)


threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Threads of linear algebra; more are slower where others work too.",
)

# --- files ---------------------------------------------------------------------------------------------


def read_source(out: Output, name: str, program: bool = False, staged: bool = False) -> Source:
    """The named file, or standard input for `-`; messages can show its lines from then on.

    program: whether it may be a lowered program, staged: the text of an earlier stage; else click.UsageError is raised
    for one.
    """
    if not staged and is_stage(name):
        raise click.UsageError(f"`{name}` is the text of a stage; `parc compile` takes it on to a program")
    if not program and is_program(name):
        raise click.UsageError(f"`{name}` is a lowered program; `parc {out.command}` needs the `.par` file")
    source = _read_stdin() if name == "-" else load(name)
    out.sources.add(source)
    return source


def _read_stdin() -> Source:
    try:
        content = sys.stdin.buffer.read(limits.MAX_BYTES + 1)
    except OSError as error:
        raise fail("E0013", f"cannot read standard input: {error.strerror or 'it is closed'}") from None
    if len(content) > limits.MAX_BYTES:
        raise fail("E0901", f"standard input is larger than {limits.MAX_BYTES // 2**20} MiB")
    try:
        return Source("<stdin>", content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise fail("E0012", f"standard input is not UTF-8 text (byte {error.start})") from None
