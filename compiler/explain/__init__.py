"""Why tensors are laid out as they are, and what is sent for them: `parc explain FILE TENSOR`."""

from __future__ import annotations

from compiler.explain.index import Index, LayoutChange
from compiler.explain.tensor import Explanation, Kept, Why, explain_tensor

__all__ = ["Explanation", "Index", "Kept", "LayoutChange", "Why", "explain_tensor"]
