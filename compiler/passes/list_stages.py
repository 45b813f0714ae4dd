"""Where gradients that are lists of rows arise: they are no sums, which stages could add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compiler.passes.place.place import Placed
from compiler.passes.sparse import Unlisted

if TYPE_CHECKING:
    from compiler.passes.stage import Staged


def check_one_stage(placed: Placed, staged: Staged, reads: Mapping[str, set[int]]) -> None:
    """Lists arise on the one stage that has their table. Raises Unlisted.

    reads: by weight, the stages whose forward pass reads it.
    """
    why: dict[str, str] = {}
    for (name, _), parts in zip(placed.training.added, staged.addends, strict=True):
        stages = {s for v in parts for s in staged.stages_of(v, staged.backward)} | reads[name]
        if name in placed.training.listed and (len(stages) > 1 or staged.everywhere.ways > 1):
            why[name] = "it is read on several stages"
    if why:
        raise Unlisted(why)
