"""`parc serve`: a job that decodes, or an encoder, as a service over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from parc import api
from parc.cli.common import (
    LONGEST,
    Assignment,
    Command,
    NumberRange,
    Output,
    choice,
    file_argument,
    job_options,
    read_source,
    set_threads,
    threads_option,
)
from parc.cli.engine import backend_option, check_backend, engine_named
from parc.cli.keeping import from_option, say_weights
from parc.cli.tables import plural

if TYPE_CHECKING:
    from parc.serving.run import Served

KEY = "PARC_API_KEY"
"""The variable of the environment that has the key, if no file has."""


@click.command("serve", cls=Command)
@file_argument
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--name", metavar="NAME", help="What the model is called; else as the job.")
@click.option(
    "--api-key-file", metavar="PATH", help=f"Requests must have the key in this file; else that in ${KEY}, if any."
)
@click.option("--queue", type=click.IntRange(0), default=64, show_default=True, help="Texts that wait; more: 429.")
@click.option("--body", type=click.IntRange(1), default=2**20, show_default=True, help="Bytes of a request; more: 413.")
@click.option(
    "--timeout", type=NumberRange(0, min_open=True), default=600.0, show_default=True, metavar="SECONDS",
    help="For each request, from its acceptance on.",
)  # fmt: skip
@click.option(
    "--patience", type=NumberRange(0, LONGEST, min_open=True), default=30.0, show_default=True, metavar="SECONDS",
    help="For a client that sends its request, or takes the next piece of an answer.",
)  # fmt: skip
@click.option(
    "--drain", type=NumberRange(0), default=30.0, show_default=True, metavar="SECONDS",
    help="Behind SIGTERM: for what was accepted.",
)  # fmt: skip
@click.option(
    "--tokenizer",
    metavar="byte|FILE",
    help="`byte`, or a `tokenizer.json`; else a published model's own, or that of the job's data.",
)
@click.option("--chat-template", metavar="PATH", help="A Jinja template; else that beside the tokenizer, if any.")
@click.option(
    "--also", "also", metavar="NAME=VALUE", multiple=True, type=Assignment(),
    help="Of vectors: compute short texts with this `param`, such as `seq=32` (again for each).",
)  # fmt: skip
@click.option("--no-reuse", is_flag=True, help="Read each prompt anew, even if a row has its beginning.")
@click.option("--log", is_flag=True, help="Tell of each request on standard error, in a line of JSON.")
@click.option("--check", is_flag=True, help="Look at everything, and serve nothing.")
@from_option
@engine_named
@backend_option
@threads_option
@job_options
def command(
    out: Output,
    file: str,
    host: str,
    port: int,
    name: str | None,
    api_key_file: str | None,
    queue: int,
    body: int,
    timeout: float,
    patience: float,
    drain: float,
    tokenizer: str | None,
    chat_template: str | None,
    also: tuple[tuple[str, str], ...],
    no_reuse: bool,
    log: bool,
    check: bool,
    given: str | None,
    engine: Literal["emulator", "torch"],
    device: str,
    backend: api.Backend,
    threads: int,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Serve the job of FILE, which says `decode over` a dim, or makes a vector of each text, to clients of OpenAI's
    API, on emulated devices or, with `--engine torch`, by a process of PyTorch for each device.

    As many texts at a time as the model's batch has rows: they come and go, others wait.

    \b
    parc serve writer.par --from saved
    curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
      -d '{"model": "write", "prompt": "To be", "max_tokens": 20}'
    """
    set_threads(threads)
    check_backend(backend, engine)
    if name is not None and not (name.isprintable() and 0 < len(name) <= 256 and name.strip() == name):
        raise click.UsageError("`--name` is 1 to 256 characters that can be printed")
    from parc.serving.limits import Limits

    key = key_of(api_key_file)
    limits = Limits(queue=queue, body=body, seconds=timeout, sending=patience, reading=patience, drain=drain)
    served = api.serve(
        read_source(out, file),
        host=host,
        port=port,
        name=name,
        key=key,
        limits=limits,
        checkpoint=given,
        tokenizer=tokenizer,
        chat_template=chat_template,
        logs=log,
        reuse=not no_reuse,
        backend=backend,
        threads=threads,
        engine=engine,
        device=device,
        also=[dict([one]) for one in also],
        told=None if check else lambda served, address: _tell(out, served, address, key is not None),
        **choice(out, params, job, strategy),
    )
    out.result = served.as_json()
    if check:
        out.data(_shown(served))


def key_of(path: str | None) -> str | None:
    """The key that requests must have: of the file, or of the environment. Raises click.UsageError for none there."""
    found = os.environ.get(KEY) if path is None else None
    if path is not None:
        try:
            found = Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"cannot read the key in `{path}`: {error}") from None
    if found is not None and not (found and found.isascii() and found.isprintable() and " " not in found):
        raise click.UsageError("the API key is empty, or has other characters than ASCII's, or spaces")
    return found


def _shown(served: Served) -> str:
    at = f"{plural(served.rows, 'text')} at a time, of up to {plural(served.places, 'token')}"
    vectors = f", as vectors of {served.vector} numbers" if served.vector else ""
    return f"{served.name}: {at}{vectors}, on {plural(served.devices, 'device')}"


def _tell(out: Output, served: Served, address: str, keyed: bool) -> None:
    say_weights(out, served.began)
    if not keyed:
        out.say(f"note: whoever reaches the address is answered; ${KEY} or `--api-key-file` sets a key")
    out.say(_shown(served))
    out.say(f"serving at {address}")
