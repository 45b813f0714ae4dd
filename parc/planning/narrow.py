"""Where a product is one with a vector: a device has a single position of what one of its sides is made of.

Such a product is no kernel of matrices (`compiler/cost/kernels`), nor is its depth of one aligned as others are
(`compiler/cost/price/compute.py`): it may take less than its share of what more rows take, or than one of as many
devices would. So what is known of layers in proportion does not hold for it.
"""

from __future__ import annotations

from math import prod

from compiler.model import Job
from compiler.ops.contract import Contract
from compiler.walk import bodies
from dsl.data import dataclass
from parc.planning.dims import Splittable
from parc.planning.guess import Kin
from parc.planning.space import EXPERTS, INNER, POSITIONS, AxisRole
from parc.planning.turning import turning


@dataclass(frozen=True, slots=True)
class ProductSide:
    """Rows, columns or depth of products. dims: their names; each: positions to a row of the batch, or all if the batch
    is not among them (`batched`)."""

    dims: frozenset[str]
    each: int
    batched: bool


def product_sides(job: Job, split: Splittable) -> tuple[ProductSide, ...]:
    """Those of the model's products of more than one position. (Its gradients' products have the same.)"""
    found: dict[ProductSide, None] = {}
    for node in (n for body in bodies(job.model.graph) for n in body.nodes if isinstance(n.op, Contract)):
        sizes = {d.name: d.size for v in (*node.inputs, *node.outputs) for d in v.type.dims}
        a, b = ({*v.type.names} for v in node.inputs)
        kept = {*node.outputs[0].type.names}
        for dims in (a - b, b - a, (a & b) - kept):
            if (number := prod(sizes[d] for d in dims)) > 1:
                batched = split.batch in dims
                each = number // sizes[split.batch] if batched else number
                found[ProductSide(frozenset(dims), each, batched)] = None
    if turning(job.model.graph, {w.value for w in job.model.weights}, split):
        found[ANY] = None
    return tuple(found)


ANY = ProductSide(frozenset(), 0, False)
"""In the place of a side: of whatever devices have, nothing is known in proportion (`turning`)."""


def narrow(sides: tuple[ProductSide, ...], split: Splittable, roles: dict[str, AxisRole], kin: Kin) -> bool:
    """Whether a device may have a single position of a side, with layers that are split so and as many rows."""
    layer = kin.layer
    for side in sides:
        pieces = 1
        for name, n in layer.inside:
            role = roles[name]
            inner = role.kind == INNER and side.dims & {*split.inner, layer.along}
            experts = role.kind == EXPERTS and side.dims & {*split.experts}
            heads = layer.heads and side.dims & {*split.heads}
            positions = role.kind == POSITIONS and (role.dim in side.dims or heads or layer.by)
            pieces *= n if inner or experts or positions else 1
        if side.each * (kin.rows if side.batched else 1) < 2 * pieces:
            return True
    return False
