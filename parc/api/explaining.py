"""Why a tensor lies as it does, and what an error code means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from parc.api.compiling import evaluate, warn
from parc.api.options import Options

if TYPE_CHECKING:
    from compiler.explain import Explanation
    from dsl.codes import Code
    from parc.api.options import File


def explain_tensor(file: File, tensor: str, **options: Unpack[Options]) -> Explanation:
    """Explain why a tensor has its layout, and what is sent for it (bytes).

    Args:
        file: the path of a `.par` file, or a `Source`.
        tensor: a path in the model, such as `block.mlp.w1`, or a name in the placed graph.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong, for an unknown tensor too.
    """
    from compiler.driver import compile_job
    from compiler.explain import explain_tensor

    compiled = compile_job(evaluate(file, **options).job)
    warn(compiled.job, options)
    return explain_tensor(compiled.placed, compiled.staged, compiled.program, tensor)


def explain(code: str) -> Code:
    """Explain an error code, such as `E0401`. Raises KeyError if there is none."""
    from dsl.codes import CODES

    return CODES[code.upper()]
