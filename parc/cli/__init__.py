"""The command `parc`: one module per command, loaded when it is called."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import click

import parc
from dsl.printable import printable
from parc.cli.streams import failed, flushed, open_streams, take_all_texts

COMMANDS = {
    "init": "Write a job from the configuration of a published model.",
    "check": "Check a file: everything but running it.",
    "compile": "Lower a file to the program of each class of devices.",
    "export": "Write the program of a file for another system: PyTorch.",
    "run": "Run a file or a lowered program on emulated devices.",
    "evaluate": "Evaluate a file's model: loss, metrics and outputs, with the weights of a checkpoint.",
    "generate": "Go on from prompts, with a job that decodes.",
    "serve": "Answer requests for texts over HTTP, with a job that decodes.",
    "convert": "Make a checkpoint for another strategy, or another job.",
    "compress": "Make a checkpoint whose matrices rest in fewer bits.",
    "verify": "Prove that the distributed run equals the serial program.",
    "cost": "Say how long a step takes, where the time goes, and what would help.",
    "sweep": "Price a job for all combinations of values of its parameters.",
    "plan": "Find the best strategy of a job, and prove it.",
    "devices": "List the devices of the standard library, and the software that they have numbers for.",
    "trace": "Write the timeline of a step for Perfetto.",
    "report": "Write what a step costs as one page of HTML.",
    "explain": "Explain an error code, or why a tensor is laid out and moved as it is.",
    "diff": "Compare the lowered programs of two files or two strategies.",
    "fmt": "Format files in the one canonical way.",
}

UNMET = 2
BUG = 3
LIMIT = 4
INTERRUPTED = 130


class _StreamFailed(Exception):
    """Something could not be written, or its reader has gone: `error`. Hidden from click, which has ways of its own."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Cli(click.Group):
    """The group: knows its commands by name, imports one only to run it, and turns every ending into an exit code."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Where `--help` and `--version` are printed."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError as error:
            raise _StreamFailed(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _StreamFailed(error) from None  # click would make exit code 1 of it

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"parc.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in COMMANDS:
            from dsl.diagnostics import suggest

            near = suggest(name, COMMANDS)
            hint = f"; did you mean `{near}`?" if near else f"; one of: {', '.join(COMMANDS)}"
            ctx.fail(f"there is no command `{name}`{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        extra.pop("standalone_mode", None)
        debug = "--debug" in (sys.argv[1:] if args is None else args) or bool(os.environ.get("PARC_DEBUG"))
        try:
            code = self._ended(args, prog_name or "parc", debug, extra)
            flushed()
        except (_StreamFailed, OSError) as error:
            cause = error.error if isinstance(error, _StreamFailed) else error
            ended = failed(cause)
            code = show_failure(cause, debug) if ended is None else ended
        sys.exit(code)

    def _ended(self, args: Sequence[str] | None, prog_name: str, debug: bool, extra: dict[str, Any]) -> int:
        """Run the command; its exit code. Raises OSError of streams."""
        take_all_texts()
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc, unused-ignore]
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            # An interrupt within an `exec` (modules that are imported do that) has Python end by the signal, whatever
            # exit code is asked for, unless another one ends well (Python 3.11: `run_eval_code_obj`).
            exec("")
            return INTERRUPTED
        except (_StreamFailed, OSError):
            raise
        except MemoryError:  # not even what the command says of it has room
            sys.stderr.write("error[E0910]: this takes more memory than there is\n")
            return LIMIT
        except Exception as error:
            return show_failure(error, debug)
        return code if isinstance(code, int) else 0


def show_failure(error: Exception, debug: bool) -> int:
    """Say whether a package that is needed is at fault, or parc itself; the exit code."""
    from parc.needs import outdated, unmet

    if debug:
        traceback.print_exception(error)
    need = unmet(error)
    if need is not None:
        click.echo(f"Error: {need.what}\n  help: `{need.command}`", err=True)
        return UNMET
    what = str(error).strip().splitlines()
    click.echo(f"internal error: {type(error).__name__}{': ' + what[0] if what else ''}", err=True)
    old = list(outdated())
    for need in old:
        click.echo(f"  {need.what}\n  help: `{need.command}`, then try again", err=True)
    if not old:
        click.echo("  This is a bug in parc, not in your file. We would like to know of it.", err=True)
    if not debug:
        click.echo("  help: `parc --debug …` shows where it happened", err=True)
    return BUG


@click.group("parc", cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(parc.__version__, prog_name="parc", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, envvar="PARC_DEBUG", help="Show the traceback of an internal error.")
def cli(debug: bool) -> None:
    """Models, clusters and the strategies between them: checked, lowered, emulated and proved.

    \b
    parc check FILE      is it legal?
    parc run FILE        train it on emulated devices
    parc verify FILE     does it compute what the serial program computes?
    """
    del debug  # read by `Cli.main`, which outlives the context


def main() -> NoReturn:
    """The entry point of the command."""
    open_streams()
    try:
        cli.main()
    except SystemExit as ended:
        if "torch" in sys.modules:  # what Python does at its end takes a second then, and now and then aborts
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(ended.code if isinstance(ended.code, int) else 0)
        raise
