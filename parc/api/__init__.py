"""The functions behind the commands. Importing this costs nothing: each loads what it needs when it is called."""

from __future__ import annotations

from parc.api.checkpoints import convert, publish
from parc.api.compiling import Checked, check, compile, diff, diff_text, emit, evaluate, fmt, load_program
from parc.api.compressing import compress
from parc.api.explaining import explain, explain_tensor
from parc.api.exporting import export
from parc.api.generating import DraftModel, generate
from parc.api.importing import init
from parc.api.options import (
    BACKENDS,
    ENTRIES,
    EXECUTORS,
    OURS,
    STAGES,
    SYSTEMS,
    Backend,
    Entry,
    Executor,
    Options,
    Stage,
    System,
    is_program,
    is_stage,
)
from parc.api.planning import Minimised, certify, plan, plan_cases, plan_report
from parc.api.pricing import (
    cost,
    devices,
    estimate,
    price,
    remedies,
    report,
    report_compared,
    serving_price,
    sweep,
    trace,
)
from parc.api.running import batches, run, shrink, verify
from parc.api.serving import serve

__all__ = [
    "BACKENDS",
    "Backend",
    "Checked",
    "DraftModel",
    "ENTRIES",
    "EXECUTORS",
    "Entry",
    "Executor",
    "Minimised",
    "OURS",
    "Options",
    "STAGES",
    "SYSTEMS",
    "Stage",
    "System",
    "batches",
    "certify",
    "check",
    "compile",
    "compress",
    "convert",
    "cost",
    "devices",
    "diff",
    "diff_text",
    "emit",
    "estimate",
    "evaluate",
    "explain",
    "explain_tensor",
    "export",
    "fmt",
    "generate",
    "init",
    "is_program",
    "is_stage",
    "load_program",
    "plan",
    "plan_cases",
    "plan_report",
    "price",
    "publish",
    "remedies",
    "report",
    "report_compared",
    "run",
    "serve",
    "serving_price",
    "shrink",
    "sweep",
    "trace",
    "verify",
]
