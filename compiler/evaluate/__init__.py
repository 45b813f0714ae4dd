"""Evaluation: from a `.par` file to a `Job`, the model as a graph with names, sizes and dtypes all known."""

from __future__ import annotations

from compiler.evaluate.checks import Check, CheckResult
from compiler.evaluate.driver import Evaluation, check_file, checked, evaluate, evaluate_file

__all__ = ["Check", "CheckResult", "Evaluation", "check_file", "checked", "evaluate", "evaluate_file"]
