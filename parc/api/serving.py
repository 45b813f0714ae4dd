"""A job that decodes, as a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack

from parc.api.compiling import compile, sizes
from parc.api.options import Backend, Options

if TYPE_CHECKING:
    from dsl.source import Source
    from parc.serving.limits import Limits
    from parc.serving.run import Served


def serve(
    file: Source,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    key: str | None = None,
    limits: Limits | None = None,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    logs: bool = False,
    reuse: bool = True,
    backend: Backend = "numpy",
    threads: int = 1,
    told: Callable[[Served, str], None] | None = None,
    **options: Unpack[Options],
) -> Served:
    """Answer requests for texts over HTTP, in the words of OpenAI, until SIGTERM or SIGINT.

    Args:
        file: of a job that decodes.
        host, port: where; port 0 takes any that is free.
        name: what the model is called; None: as the job.
        key: what every request has as its bearer token; None: nothing.
        limits: what is taken at most.
        checkpoint, tokenizer, backend: as in `generate`.
        chat_template: the path of a Jinja template; None: that beside the tokenizer, if there is one.
        logs: whether requests are told of on standard error, in lines of JSON.
        reuse: a text that begins as one before it in the same row is not read again.
        threads: of linear algebra, in the worker.
        told: hears of what is served, and of its address, once it is; None: everything is looked at, nothing served.
        options: see `Options`.

    Raises:
        ParcError: E0782 to E0785 for jobs, tokenizers; E0770 to E0772 for the checkpoint; E0751 without the packages,
            for an address that is not to be had, and where no worker gets ready.
    """
    from parc.generating import weights_given
    from parc.machine import Asked, require_machine
    from parc.serving.batching import ports_of, rows_program
    from parc.serving.limits import Limits
    from parc.serving.run import Served, bound, serve_front
    from parc.serving.templates import chat_config
    from parc.serving.wire import WorkerSpec

    compiled = compile(file, **options)
    job = compiled.job
    ports, known = ports_of(compiled, tokenizer)
    chat = chat_config(tokenizer, chat_template)
    program = rows_program(compiled, ports).program
    require_machine(Asked(program, ["stacked"], None, job.span, sizes(file, options)))
    began = weights_given(checkpoint, program, compiled.training.model)[1]
    served = Served(name or job.name, program.devices, ports.rows, ports.places, known.size, began)
    if told is None:
        bound(host, port, limits or Limits()).close()
        return served
    params = {k: str(v) for k, v in (options.get("params") or {}).items()}

    def spec(began: str | None) -> WorkerSpec:
        return WorkerSpec(
            file.name, file.text, file.path, params, options.get("job"), options.get("strategy"), began, tokenizer,
            backend, threads, reuse,
        )  # fmt: skip

    def renewed() -> WorkerSpec:
        return spec(weights_given(checkpoint, program, compiled.training.model)[1])

    serve_front(served, spec(began), ports, known, chat, limits or Limits(), host, port, key, logs, told, renewed)
    return served
