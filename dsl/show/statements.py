"""Statements and items as documents for `dsl.layout`: the canonical spelling of each node.

Blocks, comments and blank lines are `dsl.printer`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import singledispatch

from dsl import ast
from dsl.layout import Bracket, Doc, flat
from dsl.show.expressions import expression, expressions, names, use_call
from dsl.units import UNITS

_ENDS_IN_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[0-9][0-9.]*(e[+-]?[0-9]+)?$")


def _dim_list(names: Iterable[ast.Name]) -> str:
    """Dims of a tensor stand close: `x[b,s,d]`."""
    return ",".join(n.id for n in names)


@singledispatch
def statement(node: ast.Syntax) -> Doc:
    """A statement or an item on one line; of one with a body, the head (without the brace)."""
    raise TypeError(f"not a statement: {type(node).__name__}")


def target(node: ast.Target) -> str:
    """`x[..., d]`."""
    if node.dims is None:
        return node.name.id
    rest = "" if not node.rest else "..., " if node.dims else "..."
    axes = node.axes or ((),) * len(node.dims)
    dims = ",".join("/".join(n.id for n in (d, *of)) for d, of in zip(node.dims, axes, strict=True))
    return f"{node.name.id}[{rest}{dims}]"


def _bindings(pairs: Iterable[tuple[ast.Name, ast.Expr]]) -> list[Doc]:
    return [[f"{name.id} = ", *expression(value)] for name, value in pairs]


def _scope(scope: ast.Path | None) -> Doc:
    return [" in ", *_path(scope)] if scope else []


def _init(init: ast.Expr | None) -> Doc:
    return [" ~ ", *expression(init)] if init else []


@statement.register
def _(node: ast.DimDecl) -> Doc:
    doc: Doc = ["dim "]
    for i, binding in enumerate(_bindings(node.dims)):
        doc += [", " if i else "", *binding]
    return doc


@statement.register
def _(node: ast.WeightDecl) -> Doc:
    return ["weight " + ", ".join(target(t) for t in node.targets), *_init(node.init)]


@statement.register
def _(node: ast.InputDecl) -> Doc:
    dims = f"[{_dim_list(node.dims)}]" if node.dims else ""
    bounds: Doc = [" in ", *expression(node.range)] if node.range else []
    return [f"input {names(node.names)} : {node.dtype.id}{dims}", *bounds]


@statement.register
def _(node: ast.StateDecl) -> Doc:
    dims = f"[{_dim_list(node.dims)}]" if node.dims else ""
    type = f" : {node.dtype.id}{dims}" if node.dtype else ""
    return [f"state {', '.join(target(t) for t in node.targets)}{type}", *_init(node.init)]


@statement.register
def _(node: ast.Assign) -> Doc:
    return [", ".join(target(t) for t in node.targets) + " = ", *expression(node.value)]


@statement.register
def _(node: ast.Repeat) -> Doc:
    return ["repeat ", *expression(node.count), f" as {node.label.id}"]


@statement.register
def _(node: ast.Scan) -> Doc:
    return [f"scan over {node.dim.id} as {node.label.id}"]


@statement.register
def _(node: ast.If) -> Doc:
    return ["if ", *expression(node.test)]


@statement.register
def _(node: ast.Return) -> Doc:
    return ["return ", *expressions(node.values)]


@statement.register
def _(node: ast.Loss) -> Doc:
    return ["loss ", *expression(node.value)]


@statement.register
def _(node: ast.Metric) -> Doc:
    return [f"metric {node.name.id} = ", *expression(node.value)]


@statement.register
def _(node: ast.Output) -> Doc:
    return [f"output {', '.join(n.id for n in node.names)}"]


@statement.register
def _(node: ast.Setting) -> Doc:
    doc: Doc = [" ".join(n.id for n in (node.keyword, *node.words))]
    if node.values:
        doc += [" ", *expressions(node.values)]
    for keyword, values in node.clauses:
        doc += [f" {keyword.id} ", *expressions(values)]
    return doc


@statement.register
def _(node: ast.DeviceUse) -> Doc:
    return [f"device {node.name.id} = {node.device.id}"]


@statement.register
def _(node: ast.Level) -> Doc:
    count, over = expression(node.count), [" over ", *expressions((node.bandwidth, node.latency))]
    if node.of.id in UNITS and _ENDS_IN_NUMBER.search(flat(count)):
        count = [Bracket("(", (count,), ")")]  # `8 B` would be bytes
    return [f"level {node.name.id} = ", *count, f" {node.of.id}", *over]


@statement.register
def _(node: ast.Mesh) -> Doc:
    return ["mesh ", Bracket("(", tuple(_bindings(node.axes)), ")")]


@statement.register
def _(node: ast.Split) -> Doc:
    classes = f" for {names(node.classes)}" if node.classes else ""
    pad = " pad" if node.pad else ""
    order = f" {node.order.id}" if node.order else ""
    return [f"split {names(node.dims)} on {node.axis.id}{order}{classes}", *_scope(node.scope), pad]


@statement.register
def _(node: ast.Shard) -> Doc:
    pad = " pad" if node.pad else ""
    return [f"shard {names(node.classes)} on {node.axis.id}", *_scope(node.scope), pad]


@statement.register
def _(node: ast.ReduceDecl) -> Doc:
    return [f"reduce {names(node.classes)} on {node.axis.id} per {node.per}", *_scope(node.scope)]


@statement.register
def _(node: ast.Offload) -> Doc:
    words = {"prefetch": node.prefetch, "cache": node.cache, "hits": node.hits if node.cache is not None else None}
    said = [part for word, of in words.items() if of is not None for part in (f" {word} ", *expression(of))]
    return [f"offload {names(node.classes)} to {node.memory.id}", *_scope(node.scope), *said]


@statement.register
def _(node: ast.RunOn) -> Doc:
    return [f"run {names(node.kinds)} on {node.place.id}", *_scope(node.scope)]


@statement.register
def _(node: ast.Store) -> Doc:
    return [f"store {node.what.id} as ", *use_call(node.format), *_scope(node.scope)]


@statement.register
def _(node: ast.FuseOff) -> Doc:
    return ["fuse off"]


@statement.register
def _(node: ast.LayoutDecl) -> Doc:
    dims: list[Doc] = [["/".join(n.id for n in (dim, *axes))] for dim, axes in node.dims]
    return [f"layout {node.tensor}", Bracket("[", tuple(dims), "]"), *_scope(node.scope)]


@statement.register
def _(node: ast.Pipeline) -> Doc:
    doc: Doc = [f"pipeline {', '.join(map(str, node.parts))} on {node.axis.id}"]
    if node.schedule:
        doc += [", schedule ", *use_call(node.schedule)]
    if node.cuts:
        doc += [", cuts ", *expression(node.cuts)]
    if node.chunks:
        doc += [", chunks ", *expression(node.chunks)]
    return doc


@statement.register
def _(node: ast.Order) -> Doc:
    name = [f"{node.name.id} in "] if node.name is not None else []
    return [f"order {node.axis.id}[", *name, *expression(node.at), "]"]


@statement.register
def _(node: ast.OrderRow) -> Doc:
    return [x for i, item in enumerate(node.items) for x in ([" "] if i else []) + _ordered(item)]


def _ordered(item: ast.Actions | ast.ActionsLoop) -> Doc:
    if isinstance(item, ast.Actions):
        return [f"{item.pass_.id}[", *expression(item.at), "]"]
    inner: Doc = [x for a in item.body for x in [" ", *_ordered(a)]]
    return [f"for {item.name.id} in ", *expression(item.range), " {", *inner, " }"]


@statement.register
def _(node: ast.Microbatches) -> Doc:
    over, twice = f" over {node.dim.id}" if node.dim else "", ", two passes" if node.two_passes else ""
    return ["microbatches ", *expression(node.count), over, " pad" if node.pad else "", twice]


@statement.register
def _(node: ast.PlaceDecl) -> Doc:
    index: Doc = [Bracket("[", (expression(node.index),), "]")] if node.index is not None else []
    return [f"place {node.scope} on {node.axis.id}", *index]


@statement.register
def _(node: ast.Recompute) -> Doc:
    keep: Doc = [" keep ", *_listed([_path(p) for p in node.keep])] if node.keep else []
    return ["recompute", *([" ", *_path(node.scope)] if node.scope else []), *keep]


def _path(path: ast.Path) -> Doc:
    """A scope, with the iterations that are meant. A line that is too long is not broken within bounds that are words
    and numbers."""
    doc: Doc = []
    for i, part in enumerate(path.parts):
        doc.append(f".{part.id}" if i else part.id)
        if path.bounds and (bound := path.bounds[i]) is not None:
            inside = expression(bound)
            plain = all(isinstance(piece, str) for piece in inside)
            doc += ["[", *inside, "]"] if plain else [Bracket("[", (inside,), "]")]
    return doc


def _listed(docs: Sequence[Doc]) -> Doc:
    return [x for i, doc in enumerate(docs) for x in ([", ", *doc] if i else doc)]


def _paths(word: str, paths: tuple[ast.Path, ...]) -> str:
    return f"{word} {', '.join(map(str, paths))}" if paths else ""


@statement.register
def _(node: ast.Implement) -> Doc:
    return ["implement ", *_path(node.scope), " by ", *expression(node.call)]


@statement.register
def _(node: ast.Apply) -> Doc:
    return [*expression(node.call), *_scope(node.scope)]


@statement.register
def _(node: ast.Task) -> Doc:
    cluster: Doc = [" on ", *use_call(node.cluster)] if node.cluster else []
    strategy = f" using {node.strategy.id}" if node.strategy else ""
    return [f"{node.kind.id} ", *use_call(node.model), *cluster, strategy]


@statement.register
def _(node: ast.OptimizerUse) -> Doc:
    return ["optimizer ", *use_call(node.call)]


@statement.register
def _(node: ast.Decode) -> Doc:
    first: Doc = [", prefill ", *expression(node.prefill)] if node.prefill else []
    return [f"decode over {node.dim.id}", *first]


@statement.register
def _(node: ast.Frozen) -> Doc:
    return [f"frozen{_paths('', node.weights)}{_paths(' keep', node.keep)}"]


@statement.register
def _(node: ast.Precision) -> Doc:
    master = f", master {node.master.id}" if node.master else ""
    scale: Doc = [", loss_scale ", *expression(node.loss_scale)] if node.loss_scale else []
    return [f"precision {node.compute.id}{master}", *scale]


@statement.register
def _(node: ast.Data) -> Doc:
    return ["data ", *use_call(node.call)]


@statement.register
def _(node: ast.Seed) -> Doc:
    return ["seed ", *expression(node.value)]


@statement.register
def _(node: ast.Use) -> Doc:
    module: Doc = [str(node.module)] if isinstance(node.module, ast.Path) else expression(node.module)
    names: list[Doc] = [[n.id] for n in node.names]
    listed: Doc = [" ", Bracket("(", tuple(names), ")")] if names else []
    return ["use ", *module, *listed]


@statement.register
def _(node: ast.Param) -> Doc:
    doc: Doc = [f"param {node.name.id} = ", *expression(node.default)]
    if isinstance(node.choices, ast.Range):
        doc += [" in ", *expression(node.choices)]
    elif node.choices is not None:
        doc += [" in ", Bracket("{", tuple(expression(c) for c in node.choices), "}")]
    return doc


@statement.register
def _(node: ast.Check) -> Doc:
    return ["check ", *expression(node.test)]


_HEADS: dict[type[ast.Definition], str] = {
    ast.Function: "fn",
    ast.Model: "model",
    ast.Optimizer: "optimizer",
    ast.Device: "device",
    ast.Cluster: "cluster",
    ast.Tactic: "tactic",
    ast.Strategy: "strategy",
    ast.Job: "job",
}


@statement.register
def _(node: ast.Definition) -> Doc:
    doc: Doc = [f"{_HEADS[type(node)]} {node.name.id}"]
    if node.parameters or isinstance(node, ast.Function | ast.Tactic):
        doc.append(Bracket("(", tuple(_parameter(p) for p in node.parameters), ")"))
    if isinstance(node, ast.Strategy) and node.model:
        doc.append(f" for {node.model.id}")
    return doc


def _parameter(node: ast.Parameter) -> Doc:
    default: Doc = [" = ", *expression(node.default)] if node.default else []
    return [target(node.target), *default]
