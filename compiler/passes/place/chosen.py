"""Which loop of an op each axis splits, as it was chosen in a placing before, or anew."""

from __future__ import annotations

from compiler.graph import Node
from compiler.passes.place.choose import choose
from compiler.passes.place.region import GraphPlacer, LoopAxes


def chosen(region: GraphPlacer, node: Node) -> LoopAxes:
    """The same as `choose` gives; whoever has no notes of other placings has all reasons told."""
    held = [region.layouts(v) for v in node.inputs]
    rules, before = region.rules, region.shared.before
    wishes = rules.all_wishes(region.path or node.outputs[0].origin.path, region.cls)
    if before is None or rules.questions is None:
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        return choose(region, node, loops, held, wishes)
    kind, loops = before.node(node)
    key = before.key(region, node, kind, held, wishes)
    plan = before.found(region, key)
    if plan is None:
        asked, rules.questions = rules.questions, {}
        plan = choose(region, node, loops, held, wishes)
        if (own := rules.questions) is not None:  # nothing but sizes was asked for
            if not region.shared.diagnostics:
                before.plans.setdefault(key, []).append((own, plan))
            asked.update(own)
            rules.questions = asked
    return plan
