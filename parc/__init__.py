"""parc: a language and compiler for parallel strategies.

    import parc

    compiled = parc.compile("examples/gpt.par", params={"layers": 4})
    assert parc.verify("examples/gpt.par", params={"dp": 2}).ok

Each function is the command of the same name. What the user got wrong is raised as `parc.ParcError`.
"""

from __future__ import annotations

from dsl.diagnostics import Diagnostic, ParcError
from parc.api import (
    batches,
    check,
    compile,
    compress,
    convert,
    diff,
    diff_text,
    emit,
    evaluate,
    explain,
    explain_tensor,
    export,
    fmt,
    generate,
    init,
    load_program,
    publish,
    run,
    shrink,
    sweep,
    verify,
)

__all__ = [
    "Diagnostic",
    "ParcError",
    "batches",
    "check",
    "compile",
    "compress",
    "convert",
    "diff",
    "diff_text",
    "emit",
    "evaluate",
    "explain",
    "explain_tensor",
    "export",
    "fmt",
    "generate",
    "init",
    "load_program",
    "publish",
    "run",
    "shrink",
    "sweep",
    "verify",
]

__version__ = "0.1.0"
