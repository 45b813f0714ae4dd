"""`job`: ties a model to a cluster, a strategy, an optimizer, a precision and data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import field, replace
from functools import cache
from typing import Any

from compiler.evaluate import dtypes, static
from compiler.evaluate.calls import bind
from compiler.evaluate.cluster import build_cluster
from compiler.evaluate.expressions import evaluate, static_of
from compiler.evaluate.frozen import Everything, Patterns
from compiler.evaluate.index import ModelIndex, index_model
from compiler.evaluate.inner_loops import trained_as
from compiler.evaluate.layers import edges_of
from compiler.evaluate.model import build_model
from compiler.evaluate.modules import Module
from compiler.evaluate.optimizer import build_updates
from compiler.evaluate.plan import PlannedStrategy, build_plan
from compiler.evaluate.session import Session
from compiler.evaluate.statics import static_scope
from compiler.evaluate.stores import in_pages, kept_pairs, rounded_pairs, stored_pair
from compiler.evaluate.values import Defined, Skip
from compiler.graph import BEYOND_F32, FLOATS, Graph, Names, Value
from compiler.model import Cluster, DataSpec, Decoding, Job, Model, Precision, WeightUpdate
from compiler.readers import check_data
from compiler.strategy import SERIAL
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Span

Updates = tuple[tuple[WeightUpdate, ...], float | None]

_MAX_SEED = 2**63 - 1

NARROW = {"bf16": 2**8, "f16": 2**11}
"""Types in which whole numbers are exact up to here only."""


@dataclass
class _Tasks:
    """A job's statements, each kind at most once but for `frozen`."""

    task: ast.Task | None = None
    decoding: ast.Decode | None = None
    optimizer: ast.OptimizerUse | None = None
    precision: ast.Precision | None = None
    frozen: list[ast.Frozen] = field(default_factory=list)
    data: ast.Data | None = None
    seed: ast.Seed | None = None
    seen: dict[str, ast.Statement] = field(default_factory=dict)


def build_job(
    session: Session,
    module: Module,
    entry: Defined,
    strategy: ast.Name | None = None,
    precision: Precision | None = None,
) -> Job:
    """The job; `strategy` replaces the one that it names (`serial`: none), `precision` the one that it states.

    Raises Skip after reported errors.
    """
    item = entry.item
    assert isinstance(item, ast.Job)
    tasks = _sort(session, item)
    task = tasks.task
    if task is None:
        help = "`train MODEL(…) on CLUSTER using STRATEGY`"
        raise fail("E0314", f"the job `{entry.name}` trains nothing", item.name.span, help=help)
    before = session.failures
    session.pieces = []
    names = Names()
    stated = _try(session, lambda: _precision(tasks.precision, module)) or Precision()
    if precision is not None:
        session.replaced = {stated.master: precision.master} | {stated.compute: precision.compute}
    precision = precision or stated
    frozen = Everything() if task.kind.id == "infer" else Patterns(tasks.frozen)
    session.microbatches = cache(lambda: _microbatches(session, module, task, strategy))
    model, other = _try(session, lambda: _model(session, module, task, names, precision, frozen)) or (None, None)
    if model is not None:
        _try(session, lambda: _check_frozen(tasks, model, frozen))
    decoding = _try(session, lambda: _decoding(session, tasks, module, model)) if tasks.decoding is not None else None
    cluster = _try(session, lambda: _cluster(session, module, task))
    plan: PlannedStrategy | None = _try(session, lambda: _strategy(session, module, task, strategy, model, cluster))
    written: tuple[Model, Model | None] | None = None
    updates: Updates | None = None
    serial: Updates | None = None
    if plan is not None and plan.cuts and model is not None:
        written, names, cuts = (model, other), Names(), plan.cuts
        serial = _try(session, lambda: _updates(session, module, entry, tasks, model, names.copy(), precision))
        session.cuts = edges_of(cuts, index_model(model))
        try:
            model, other = _model(session, module, task, names, precision, frozen)
        finally:
            session.cuts = {}
        model, other = trained_as(model, written[0]), other and trained_as(other, written[0])
        plan = _try(session, lambda: _strategy(session, module, task, strategy, model, cluster))
    plain, cut = model, None
    if plan is not None and plan.by_hand and model is not None:
        from compiler.evaluate.implement import implemented

        cut = (model, other) if written else None
        written = written or (model, other)
        chosen, both = plan, (model, other)
        made = _try(session, lambda: [m and implemented(m, chosen.by_hand, chosen.strategy) for m in both])
        model, other = made or both
    if plan is not None and model is not None and plan.strategy.stores:
        from compiler.stored import of_parts

        stores, given, parts = plan.strategy.stores, (model, other), dict[str, Value]()
        model, other = _try(session, lambda: stored_pair(stores, given, model, parts, plain or model)) or given
        written = written and _try(session, lambda: stored_pair(stores, written, model, parts, written[0]))
        cut = cut and _try(session, lambda: stored_pair(stores, cut, cut[0], dict[str, Value](), plain or model))
        plan = replace(plan, strategy=of_parts(plan.strategy, model.stored))
    if plan is not None and model is not None and plan.strategy.activations:
        given_all, obeyed, infers = ((model, other), written, cut), plan.strategy, task.kind.id == "infer"
        names_in = (model, model, cut[0] if cut else model)
        rounded = _try(session, lambda: rounded_pairs(obeyed, given_all, names_in, infers))
        (model, other), written, cut = rounded or given_all
    if plan is not None and model is not None and plan.strategy.caches:
        keeping, all_pairs = plan.strategy, ((model, other), written, cut)
        made = _try(session, lambda: kept_pairs(keeping, all_pairs, decoding)) or all_pairs
        (model, other), written, cut = made
    decoding = _try(session, lambda: in_pages(decoding, plan.strategy if plan else None, model))
    by_hand = model
    if plan is not None and model is not None and plan.strategy.zigzags:
        from compiler.evaluate.zigzags import check_decoded
        from compiler.ordered import ordered

        zigzags = plan.strategy.zigzags
        _try(session, lambda: check_decoded(decoding, zigzags))
        written = written or (model, other)
        rules, pair = plan.strategy, (model, other)
        model, other = _try(session, lambda: [m and ordered(m, rules) for m in pair]) or pair
    session.parts_of = next(iter(cuts.values())).span if serial and written else None
    updates = _try(session, lambda: _updates(session, module, entry, tasks, model, names, precision))
    session.parts_of = None
    if serial and written and updates is not None and model is not None:
        from compiler.evaluate.in_parts import in_parts

        both = (written[0], serial[0]), (model, updates[0])
        made = _try(session, lambda: in_parts(*both, names, next(iter(cuts.values())).span))
        updates = (made or updates[0], updates[1])
    data = _try(session, lambda: _data(tasks.data, module, model)) if session.sizes is None else None
    seed = _try(session, lambda: _seed(tasks.seed, module))
    if session.failures > before or model is None or plan is None or updates is None or seed is None:
        raise Skip
    return Job(
        entry.name,
        model,
        plan.strategy,
        precision,
        updates[0],
        updates[1],
        cluster,
        data,
        seed,
        task.kind.id,
        item.name.span,
        other,
        written,
        serial[0] if serial is not None else None,
        decoding,
        by_hand,
        cut[0] if cut else None,
    )


def _try(session: Session, make: Any) -> Any:
    """What `make` gives, or None after an error, which is reported."""
    try:
        return make()
    except (ParcError, Skip) as error:
        session.failed(error)
        return None


def _sort(session: Session, item: ast.Job) -> _Tasks:
    tasks = _Tasks()
    kinds: dict[type[ast.Statement], str] = {
        ast.Task: "task",
        ast.Decode: "decoding",
        ast.OptimizerUse: "optimizer",
        ast.Precision: "precision",
        ast.Data: "data",
        ast.Seed: "seed",
    }
    for statement in item.body:
        if isinstance(statement, ast.Frozen):
            tasks.frozen.append(statement)
            continue
        kind = kinds[type(statement)]
        if kind in tasks.seen:
            notes = [("the first is here", tasks.seen[kind].span)]
            session.failed(fail("E0314", f"a job has one {kind}", statement.span, notes=notes))
            continue
        tasks.seen[kind] = statement
        setattr(tasks, kind, statement)
    return tasks


def _precision(use: ast.Precision | None, module: Module) -> Precision:
    if use is None:
        return Precision()
    for name in (use.compute, use.master):
        if name is not None and name.id not in FLOATS:
            help = dtypes.meant(name.id, FLOATS)
            raise fail("E0207", f"there is no float dtype `{name.id}`", name.span, help=help)
    compute = use.compute.id
    master = use.master.id if use.master else "f32" if compute in ("bf16", "f16") else compute
    scale: float | str | None = None
    if isinstance(use.loss_scale, ast.Name) and use.loss_scale.id == "dynamic":
        scale = "dynamic"
    elif use.loss_scale is not None:
        value = evaluate(use.loss_scale, static_scope(module))
        scale = float(static.number(value, "`loss_scale`", use.loss_scale.span))
        if scale <= 0:
            raise fail("E0206", f"`loss_scale` must be above 0, got {scale}", use.loss_scale.span)
        if scale >= BEYOND_F32:
            raise fail("E0206", f"`loss_scale` must be below {BEYOND_F32:.4g}, got {scale}", use.loss_scale.span)
    return Precision(compute, master, scale)


def _check_frozen(tasks: _Tasks, model: Model, frozen: Patterns) -> None:
    assert tasks.task is not None
    if tasks.task.kind.id == "train":
        frozen.check(model)
    elif tasks.frozen:
        raise fail("E0314", "only training has frozen weights", tasks.frozen[0].span)


def _decoding(session: Session, tasks: _Tasks, module: Module, model: Model | None) -> Decoding:
    statement = tasks.decoding
    assert statement is not None and tasks.task is not None
    if tasks.task.kind.id == "train":
        help = "`infer MODEL(…)` in a job of its own"
        raise fail("E0314", "only a job that infers decodes", statement.span, help=help)
    prefill = 1
    if statement.prefill is not None:
        value = evaluate(statement.prefill, static_scope(module))
        prefill = static.integer(value, "`prefill`", statement.prefill.span)
    dim = statement.dim.id
    sizes = {d.name: d.size for i in model.inputs for d in i.value.type.dims} if model is not None else {dim: prefill}
    if dim not in sizes:
        help = did_you_mean(dim, sizes) or f"its data has {', '.join(sizes)}"
        raise fail("E0781", f"no data of the model has a dim `{dim}`", statement.dim.span, help=help)
    if session.sizes is not None:
        prefill = min(prefill, sizes[dim])
    if not 1 <= prefill <= sizes[dim]:
        span = statement.prefill.span if statement.prefill is not None else statement.span
        message = f"{prefill} positions at a time along `{dim}`, which has {sizes[dim]}"
        raise fail("E0781", message, span, help=f"choose 1 to {sizes[dim]}")
    return Decoding(dim, prefill, statement.span)


def _model(
    session: Session, module: Module, task: ast.Task, names: Names, precision: Precision, frozen: Patterns
) -> tuple[Model, Model | None]:
    entry = module.find("model", task.model.function)
    scope = static_scope(module)
    arguments = bind(task.model, entry.item.parameters, f"the model `{entry.name}`", lambda e: _static(e, scope))
    return build_model(session, entry, arguments, names, precision, frozen, task.kind.id == "infer")


def _static(expr: ast.Expr, scope: Any) -> Any:
    return static_of(evaluate(expr, scope), expr.span)


def _cluster(session: Session, module: Module, task: ast.Task) -> Cluster | None:
    """None where sizes are others than those for which it is meant."""
    return build_cluster(session, module, task.cluster) if task.cluster and session.sizes is None else None


def _strategy(
    session: Session,
    module: Module,
    task: ast.Task,
    override: ast.Name | None,
    model: Model | None,
    cluster: Cluster | None,
) -> PlannedStrategy:
    name = override or task.strategy
    if name is None:
        return PlannedStrategy(SERIAL)
    if name.id == "serial" and ("strategy", "serial") not in module.entries:
        return PlannedStrategy(SERIAL)
    index: ModelIndex | None = index_model(model) if model else None
    return build_plan(session, module, name, index, cluster)


def _microbatches(
    session: Session, module: Module, task: ast.Task, override: ast.Name | None
) -> tuple[int, str | None]:
    """How many micro-batches the job's strategy makes, and of which dim: for a model that asks, before its strategy is
    evaluated for it. What is wrong with the strategy is reported then."""
    alone = Session()
    alone.sizes, alone.replaced = session.sizes, session.replaced
    before = session.failures
    try:
        found = _strategy(alone, module, task, override, None, None).strategy
    except (ParcError, Skip):
        session.failures = before
        return 1, None
    return found.microbatches, found.microbatch_dim


def _updates(
    session: Session,
    module: Module,
    entry: Defined,
    tasks: _Tasks,
    model: Model | None,
    names: Names,
    precision: Precision,
) -> tuple[tuple[WeightUpdate, ...], float | None]:
    if session.sizes is not None and session.sizes.bare:
        return (), None
    assert tasks.task is not None
    if tasks.task.kind.id != "train":
        if tasks.optimizer is not None:
            raise fail("E0314", "only training has an optimizer", tasks.optimizer.span)
        return (), None
    if tasks.optimizer is None:
        help = "`optimizer sgd(lr = 0.1)`, after `use std.optimizers (sgd)`"
        raise fail("E0314", f"the job `{entry.name}` has no optimizer", entry.item.name.span, help=help)
    weights = model.trained if model else ()
    graph = model.graph if model else Graph("", (), (), ())
    pieces = model.pieces if model else ()
    updates, clip = build_updates(session, module, tasks.optimizer.call, weights, names, precision, graph, pieces)
    counts = next((u for u in updates if any(u.graph.inputs[0] in n.inputs for n in u.graph.nodes)), None)
    if counts is not None and precision.master in NARROW:
        last = NARROW[precision.master]
        name = tasks.optimizer.call.function.id
        message = f"`{name}` uses the number of the step, which {precision.master} counts to {last} only"
        where = tasks.precision.master if tasks.precision and tasks.precision.master else tasks.optimizer
        raise fail("E0218", message, where.span, help=f"`precision {precision.compute}, master f32`")
    return updates, clip


def _data(use: ast.Data | None, module: Module, model: Model | None) -> DataSpec | None:
    if use is None:
        return None
    scope = static_scope(module)
    args: list[Any] = []
    options: dict[str, Any] = {}
    spans: dict[str | int, Span] = {}
    for argument in use.call.arguments:
        try:
            value = _static(argument.value, scope)
        except ParcError as error:
            quoted = f'a file is named in quotes: `{use.call.function.id}("…")`'
            raise ParcError(*(replace(d, help=d.help or quoted) for d in error.diagnostics)) from None
        spans[len(args) if argument.name is None else argument.name.id] = argument.span
        if argument.name is None:
            args.append(value)
        elif argument.name.id in options:
            raise fail("E0111", f"`{argument.name.id}` is given twice", argument.span)
        else:
            options[argument.name.id] = value
    folder = os.path.dirname(module.source.path) if module.source.path else "."
    places = tuple(spans[x] for x in (*range(len(args)), *options))
    found = DataSpec(use.call.function.id, tuple(args), tuple(options.items()), folder, use.span, places)
    if model is not None:  # else what it is wrong with is told
        check_data(found, {i.value.name: i.value.type for i in model.inputs})
    return found


def _seed(use: ast.Seed | None, module: Module) -> int:
    if use is None:
        return 0
    return static.integer(evaluate(use.value, static_scope(module)), "the seed", use.value.span, 0, _MAX_SEED)


def job_names(module: Module) -> Sequence[str]:
    """The file's own jobs, in order."""
    return [e.name for e in module.of_kind("job")]
