"""A job that decodes, or an encoder, as a service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Unpack

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
    engine: Literal["emulator", "torch"] = "emulator",
    device: str = "cpu",
    also: Sequence[Mapping[str, object]] = (),
    told: Callable[[Served, str], None] | None = None,
    **options: Unpack[Options],
) -> Served:
    """Answer requests for texts, or for vectors of texts, over HTTP, in the words of OpenAI, until SIGTERM or SIGINT.

    Args:
        file: of a job that decodes, or that infers a vector of each text.
        host, port: where; port 0 takes any that is free.
        name: what the model is called; None: as the job.
        key: what every request has as its bearer token; None: nothing.
        limits: what is taken at most.
        checkpoint, tokenizer, backend: as in `generate`; a published model's own tokenizer, if none is named.
        chat_template: the path of a Jinja template; None: that beside the tokenizer, if there is one.
        logs: whether requests are told of on standard error, in lines of JSON.
        reuse: a text that begins as one before it in the same row is not read again.
        threads: of linear algebra, in the worker.
        engine, device: what runs the program in the worker, `torch` with a process for each device (`cpu`, `cuda`,
            `npu`), which end with it.
        also: parameters with which the job makes the same vectors of shorter texts, in less time.
        told: hears of what is served, and of its address, once it is; None: everything is looked at, nothing served.
        options: see `Options`.

    Raises:
        ParcError: E0782 to E0785 for jobs, tokenizers; E0770 to E0772 for the checkpoint; E0751 without the packages,
            for an address that is not to be had, and where no worker gets ready; E0710 without torch, for the engine.
    """
    from parc.generating import weights_given, weights_told
    from parc.importing.weights import tokenizer_beside
    from parc.machine import Asked, require_machine
    from parc.serving.limits import Limits
    from parc.serving.listening import bound
    from parc.serving.offer import offer_of
    from parc.serving.run import Served, serve_front
    from parc.serving.wire import WorkerSpec

    if engine == "torch":
        from runtime.torch.launch import require_torch

        require_torch()
    tokenizer = tokenizer or tokenizer_beside(checkpoint)
    compiled = compile(file, **options)
    job, model = compiled.job, compiled.training.model
    given = options.get("params") or {}
    others = [compile(file, **(options | Options(params={**given, **more}))) for more in also]
    offer = offer_of(compiled, tokenizer, chat_template, others)
    program, ports = offer.program, offer.ports
    here = ["stacked"] if engine == "emulator" else ["private"]
    for each in (program, *(c.program for c in others)):
        require_machine(Asked(each, here, None, job.span, sizes(file, options)))
    # The worker reads the weights, and tells what is wrong with them; without one they are read here.
    began = weights_told(checkpoint, program, model)
    served = Served(name or job.name, program.devices, ports.rows, ports.places, offer.known.size, offer.vector, began)
    if told is None:
        weights_given(checkpoint, program, model)
        bound(host, port, limits or Limits()).close()
        return served
    params = {k: str(v) for k, v in given.items()}
    shorter = tuple({k: str(v) for k, v in more.items()} for more in also)

    def spec(began: str | None) -> WorkerSpec:
        return WorkerSpec(
            file.name, file.text, file.path, params, options.get("job"), options.get("strategy"), began, tokenizer,
            backend, threads, reuse, engine, device, shorter,
        )  # fmt: skip

    def renewed() -> WorkerSpec:
        return spec(weights_told(checkpoint, program, model))

    serve_front(served, spec(began), offer, limits or Limits(), host, port, key, logs, told, renewed)
    return served
