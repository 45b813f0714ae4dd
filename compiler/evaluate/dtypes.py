"""What to write for the name of a data type that is none here."""

from __future__ import annotations

from collections.abc import Iterable

from compiler.evaluate.session import listed
from dsl.diagnostics import did_you_mean

_ELSEWHERE = {
    "f64": ("float64", "fp64", "double"),
    "f32": ("float32", "fp32", "float", "single", "tf32"),
    "bf16": ("bfloat16", "bfloat", "bfp16"),
    "f16": ("float16", "fp16", "half"),
    "int32": ("int64", "int16", "int8", "int", "integer", "long", "short", "i64", "i32", "i16", "i8"),
    "uint32": ("uint64", "uint16", "uint8", "uint", "byte", "u64", "u32", "u16", "u8"),
    "bool": ("boolean", "bit"),
}
_OURS = {theirs: ours for ours, words in _ELSEWHERE.items() for theirs in words}
"""What other systems call them; of integers, the one that we have of their kind."""


def meant(word: str, known: Iterable[str]) -> str:
    """The help for a word that names none of the known data types."""
    names = list(known)
    ours = _OURS.get(word.lower())
    if ours in names:
        return f"did you mean `{ours}`?"
    return did_you_mean(word, names) or f"there are {listed(names, 12)}"
