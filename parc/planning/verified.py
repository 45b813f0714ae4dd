"""A plan as text, held to the program verifier."""

from __future__ import annotations

from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.model import Job
from compiler.verify import verify
from dsl.source import Source


def verified(source: Source, job: str | None, strategy: str | None = None) -> Job:
    """The job of a file that a search has written, whose program is legal. Raises ParcError for what is wrong with the
    text."""
    made = evaluate_file(source, {}, job, strategy).job
    wrong = verify(compile_job(made).program)
    assert not wrong, f"the plan's program is not legal: {wrong[0]}"
    return made
