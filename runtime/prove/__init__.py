"""The proof: a distributed program computes what the serial program computes, and the serial program itself."""

from __future__ import annotations

from runtime.prove.compare import relative_error
from runtime.prove.evaluation import prove_evaluation
from runtime.prove.proof import Proof, prove, random_batch

__all__ = ["Proof", "prove", "prove_evaluation", "random_batch", "relative_error"]
