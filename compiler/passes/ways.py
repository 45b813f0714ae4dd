"""`ways`: where the stages are, and their copies, where micro-batches have several ways through the model."""

from __future__ import annotations

from compiler.homes import Homes
from compiler.layout import TIME
from compiler.passes.place.place import Placed
from compiler.strategy import PipelineRule
from dsl.diagnostics import Diagnostic, ParcError


def ways(placed: Placed, homes: Homes, rule: PipelineRule | None, groups: int) -> Homes:
    """homes: of the stages of the first way.

    Raises ParcError (E0446) for what all micro-batches would have to make together, or one after the other: those of
    another way are elsewhere. An entry that trains nothing goes the first way then, on which all weights are.
    """
    training = placed.training
    if rule is None or not rule.copies or groups == 1:
        return homes
    model, why = training.model, ""
    results = zip(model.metrics, placed.forward.outputs[model.scored :], strict=False)
    others = [name for name, v in results if v.layout.pending_on(TIME) not in (None, "sum")]
    if homes.groups != rule.homes:
        why = "other scopes have places of their own"
    elif model.states:
        why = f"each micro-batch goes on with the state `{model.states[0].name}` of the one before"
    elif placed.rounds:
        why = "the loss needs something of the whole batch before its first micro-batch"
    elif training.finish is not None:
        why = "a metric is made of sums over the whole batch"
    elif others:
        why = f"the metric `{others[0]}` is no sum over them"
    elif model.outputs:
        why = f"the step gives `{model.outputs[0]}`, which all micro-batches make together"
    if why and not training.trains:
        return homes
    if why:
        message = f"micro-batches cannot go {1 + len(rule.copies)} ways: {why}"
        raise ParcError(Diagnostic("E0446", message, rule.span, help="`chunks` with one way, such as `[0, 1, 1, 0]`"))
    return rule.where(groups)
