"""Weights of one scope of a model, of a checkpoint of a model that is what the scope computes, or that has it too."""

from __future__ import annotations

from dataclasses import replace

from compiler.origin import Role, within
from compiler.program import Program
from compiler.shards import ShardMap
from dsl.diagnostics import fail
from runtime.checkpoints.reading import WeightSource, fitting_names
from runtime.checkpoints.shard_file import Array


def taken_in(found: WeightSource, program: Program, scope: str) -> dict[str, Array]:
    """What a program's weights in a scope are there: by their own names, or by those that they have inside of it. All
    others begin as they are declared.

    Raises ParcError: E0772 where they do not fit, or no weight is in the scope, E0771.
    """
    tensors = ShardMap(program).tensors.values()
    wanted = [t for t in tensors if within(t.name, scope) and t.role == Role.WEIGHT]
    if not wanted:
        help = f"`--from SCOPE={found.folder}` names a call or a loop of the model, as its strategies do"
        raise fail("E0772", f"no weight of `{program.name}` is in `{scope}`", help=help)
    there = found.manifest.tensors
    inner = {t.name: t.name.removeprefix(f"{scope}.") for t in wanted}
    names = {name: name if name in there else short for name, short in inner.items()}
    mapped = {name: there[of] for name, of in names.items() if of in there}
    others = [t.name for t in tensors if t.name not in names]
    roles = tuple(r for r in Role if r is not Role.WEIGHT)
    fitting_names(replace(found.manifest, tensors=mapped), program, found.folder, roles, others)
    arrays = found.arrays(list(names.values()))
    return {name: arrays[of] for name, of in names.items()}
