"""Why tensors are laid out as they are, and what is sent for them: `parc explain FILE TENSOR`."""

from __future__ import annotations

from compiler.explain.index import Change, Index
from compiler.explain.tensor import Explanation, Kept, Why, explain_tensor

__all__ = ["Change", "Explanation", "Index", "Kept", "Why", "explain_tensor"]
