"""A certificate against the file that it came with: the space is counted again, every bound and every price is made
again, and what was left out must have a bound that speaks against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from math import gcd, inf, isqrt, prod
from typing import Any

from compiler.evaluate import evaluate_file
from compiler.graph import Type
from compiler.model import Job
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Split
from compiler.strategy import Strategy
from compiler.walk import bodies, graph_values
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.certifying.around import AroundBest, apart, hold_around
from parc.certifying.by_hand import WrittenByHand
from parc.certifying.counting import FIELDS, SPLITS, StatedSpace, classes_of, stated_again, stated_space
from parc.certifying.floors import Floors, numbers
from parc.certifying.halves import HeldHalves
from parc.certifying.layers import Build, LayerTable, stated_layers
from parc.certifying.paces import stated_paces
from parc.certifying.rooms import stated_rooms
from parc.certifying.sides import sides_of, told_apart
from parc.certifying.stated import NEAR, StatedPart, Unfounded, alike
from parc.certifying.strategies import strategy_of
from parc.certifying.tally import SpaceTally, Tallied, candidate
from parc.certifying.words import hold_text, hold_why
from parc.price import price

FORMAT = 18

MOST = 64
"""Choices of one kind that a space has at most."""

WITHOUT = {
    "cuts by hand": ("cuts by hand",),
    "places for branches": ("places for branches",),
    "offload": ("offload",),
    "implementations": ("implementations",),
    "other batch sizes": ("other batch sizes",),
    "rules for parts of a model": ("rules for parts of a model",),
}
"""What no strategy of such a space has, whatever the certificate chooses among the rest."""

MOST_POSITIONS = 2
"""Axes of positions that a space has at most."""


@dataclass(frozen=True, slots=True)
class Certified:
    """What a certificate was found to prove: of a space of so many strategies, of which so many were priced again, the
    best is the file's; by which share what is left can be better. space: which choices the space has, in words."""

    space: str
    strategies: int
    priced: int
    seconds: float
    needed: int
    gap: float


@dataclass(frozen=True, slots=True)
class HeldSearch:
    """What the certificate of one search was found to prove. value: the least that was found of what is minimised
    (None: nothing); least: the lowest bound of what is left (None: nothing is); tokens: of a step, if it was priced."""

    told: Certified
    value: float | None
    least: float | None
    tokens: int | None


def certified(source: Source, value: object, job: str | None = None) -> Certified:
    """Check a certificate. source: the file with the plan. Raises Unfounded for what is not so."""
    stated = StatedPart(value)
    stated["format"].be(FORMAT)
    stated["file"].be(sha256(source.text.encode("utf-8", "surrogatepass")).hexdigest())
    name = stated["job"].text()
    if job not in (None, name):
        raise Unfounded(f"the certificate is of the job `{name}`", "job")
    try:
        own = evaluate_file(source, job=name).job
    except ParcError as error:
        raise Unfounded(str(error), "file") from None
    if isinstance(value, dict) and "cases" in value:
        from parc.certifying.cases import certified_cases

        return certified_cases(stated, source, own)
    return hold_search(stated, source, own).told


def hold_search(
    stated: StatedPart,
    source: Source,
    own: Job | None,
    params: Mapping[str, str] | None = None,
    limit: float = inf,
) -> HeldSearch:
    """Hold the certificate of one search. own: the job with the plan, whose the best has to be (None: the file has
    another, and there may be none); params: values of the file's parameters; limit: better than which was looked for.
    Raises Unfounded."""
    name = stated["job"].text()
    serial = evaluate_file(source, params, name, "serial").job
    if serial.cluster is None:
        raise Unfounded(f"the job `{name}` has no cluster", "file")
    if serial.kind != "train":  # bounds are of steps that train
        raise Unfounded(f"the job `{name}` does not train", "job")
    stated["devices"].be(serial.cluster.devices)
    minimise = stated["minimise"].text()
    if minimise not in ("step", "memory"):
        raise Unfounded("`minimise` is neither `step` nor `memory`")
    space, floors = _space(stated, serial)
    by_hand = WrittenByHand(serial, space)
    by_hand.hold()

    def build(mesh: Mapping[str, int], m: int, rules: Mapping[str, Any]) -> Job:
        return by_hand.job_of(strategy_of(mesh, m, rules, space, stated, by_hand), rules["by"])

    layers = LayerTable(space, stated_layers(stated, space.every, build))
    paces, rooms = stated_paces(stated, space.every, build), stated_rooms(stated, space.every, build)
    halves = HeldHalves(space.every, floors, build)
    tried, values, tokens = _priced(stated, space, minimise, build, halves)

    def base(row: StatedPart, places: StatedPart) -> Strategy:
        space.left.hold_around(row)
        mesh, m, rules = _choices(row, space)
        if not places.none:
            mesh, m = apart(mesh, places)
        return build(mesh, m, rules).strategy

    around = hold_around(stated, source, serial, minimise, base, params)
    found = _best(stated, own, values, around)
    best = min(limit, inf if found is None else found)
    rows = stated["best"].each()
    for row in rows:
        mesh, m, rules = _choices(row, space)
        hold_text(row, serial, build(mesh, m, rules).strategy)
        hold_why(row, rows[0])
    tally = Tallied(space, floors, layers, paces, rooms, halves, minimise, best, tried).count()
    _counts(stated, tally, values, best)
    stated["seconds"].number()
    stated.unasked()
    plan = price(own) if own is not None else None
    told = Certified(
        space.told(),
        tally.total,
        len(values),
        plan.seconds if plan is not None else 0.0,
        plan.needed if plan is not None else 0,
        stated["gap"].number(),
    )
    least = None if stated["least"].none else stated["least"].number()
    value = found if around is None or found is None else min(found, around.value)
    return HeldSearch(told, value, least, tokens)


def _space(stated: StatedPart, job: Job) -> tuple[StatedSpace, Floors]:
    """The stated space and numbers, held to the model and the cluster."""
    of = stated["space"]
    cluster = job.cluster
    assert cluster is not None
    again = [[stated_again(r) for r in choice.distinct(MOST)] for choice in of["recompute"].distinct(MOST)]
    loops = [loop.pair() for loop in of["loops"].distinct(MOST)]
    there = {n.op.label: n.op.count for n in job.model.graph.nodes if isinstance(n.op, Repeat)}
    labels = {label.text() for label, _ in loops}
    for label, turns in loops:
        if there.get(label.text()) != turns.whole(1):
            raise Unfounded(f"{label.path} is no loop at the top of the model, or has another count", label.path)
    layers = sum(count.whole(1) for _, count in loops)
    splits = {k: [d.text() for d in of["splits"][k].distinct(MOST)] for k in SPLITS}
    types: list[Type] = [v.type for g in bodies(job.model.graph) for v in graph_values(g)]
    types += [w.value.type for w in job.model.weights]
    dims = {d.name for type in types for d in type.dims}
    if strange := sorted({d for of_kind in splits.values() for d in of_kind} - dims):
        raise Unfounded(f"{of.path}.splits has `{strange[0]}`, which is no dim of the model", of.path)
    batch = of["batch"]["dim"].text()
    first = job.model.inputs[0].value.type.names[:1] if job.model.inputs else ()
    if batch not in ("", *first):
        raise Unfounded(f"{of.path}.batch.dim is not the first dim of the first input", of.path)
    try:
        by_hand = [[s.text() for s in v["scopes"].distinct(MOST)] for v in of["implementations"].distinct(MOST)]
        model, links = numbers(job, batch, layers, [label.text() for label, _ in loops], splits, again, by_hand)
    except ParcError as error:
        raise Unfounded(f"{of.path}.recompute: {error}", of.path) from None
    for part, found in (("work", model), ("cluster", links)):
        for key, value in found.items():
            stated[part][key].be(list(value) if isinstance(value, list) else value)
        if extra := sorted(stated[part].items().keys() - found.keys()):
            raise Unfounded(f"{part} has `{extra[0]}`, which no bound asks for", part)
    away = [[c.text() for c in v.each()] for v in of["offload"].each()]
    instead: dict[str, tuple[str, ...]] = {"implementations": ("other implementations",)} if by_hand else {}
    instead |= {"offload": ("all on the devices", "offload of rows")} if away != [[]] else {}
    of["without"].be([what for kind, plain in WITHOUT.items() for what in instead.get(kind, plain)])
    sizes: dict[str, int] = {}
    for type in types:
        for d in type.dims:
            sizes[d.name] = gcd(sizes.get(d.name, 0), d.size)
    for op in (n.op for g in bodies(job.model.graph) for n in g.nodes):
        if isinstance(op, Split) and op.dim != batch:
            sizes[op.dim] = gcd(sizes[op.dim], op.into[0].size)
    of["sizes"].be(sizes)
    of["batch"]["size"].be(sizes.get(batch, 1))
    if of["batch"]["whole"].truth():
        _hold_whole(of["batch"], job)
    sides = (*sides_of(job, batch), *told_apart(job, batch, splits))
    paths = tuple(n.op.body.name for n in job.model.graph.nodes if isinstance(n.op, Repeat) and n.op.label in labels)
    space = replace(stated_space(of, cluster.devices, links["domains"]), sides=sides, paths=paths)
    if space.splits["positions"][:MOST_POSITIONS] != tuple(dim for _, kind, dim in space.axes if kind == "positions"):
        raise Unfounded(f"{of.path}.splits.positions are other dims than those of the axes", of.path)
    return space, Floors(model, links, cluster.devices, [turns.whole(1) for _, turns in loops])


def _hold_whole(batch: StatedPart, job: Job) -> None:
    """Something needs the whole batch: one device cannot cut it into the fewest micro-batches that it may have, and no
    others can, for a micro-batch has its own rows alone."""
    size = batch["size"].whole(2)
    fewest = next(n for n in (*range(2, isqrt(size) + 1), size) if size % n == 0)
    try:
        price(replace(job, strategy=Strategy("cut", microbatches=fewest, microbatch_dim=batch["dim"].text())))
    except ParcError as error:
        if "E0502" in [d.code for d in error.diagnostics if d.severity == "error"][:1]:
            return
    raise Unfounded(f"{batch.path}.whole: with micro-batches nothing is refused", batch.path)


def _priced(
    stated: StatedPart, space: StatedSpace, minimise: str, build: Build, halves: HeldHalves
) -> tuple[set[Any], list[tuple[str, float | None]], int | None]:
    """What was tried, each priced again; of each what is minimised, or why it has no such value (a code, or "unfit");
    and tokens of a step."""
    tried: set[Any] = set()
    tokens: int | None = None
    values: list[tuple[str, float | None]] = []
    seen = set()
    for entry in stated["tried"].each():
        mesh, m, rules = _choices(entry, space)
        if (key := repr(entry_key(entry))) in seen:
            raise Unfounded(f"{entry.path} was tried before", entry.path)
        seen.add(key)
        try:
            found = price(build(mesh, m, rules))
        except ParcError as error:
            entry["code"].be(next((d.code for d in error.diagnostics if d.severity == "error"), ""))
            entry["needed"].be(None)
            entry["seconds"].be(None)
            entry["between"].be(None)
            values.append((entry["code"].text(), None))
        else:
            entry["code"].be("")
            entry["needed"].be(found.needed)
            entry["seconds"].be(found.seconds if found.fits else None)
            halves.hold(entry, mesh, m, rules)
            tokens = found.tokens
            value = found.seconds if minimise == "step" else float(found.needed)
            values.append(("", value) if found.fits else ("unfit", None))
        order = [space.kind(axis) for axis in mesh]
        first = order[0] if {"stages", "data"} <= set(order) else ""
        schedule = rules["schedule"], rules["chunks"]
        choices = (rules["zero"], rules["recompute"], schedule, rules["along"], rules["heads"], rules["rows"])
        tried.add(candidate(mesh, m, first, *choices, rules["by"], rules["offload"]))
    return tried, values, tokens


def entry_key(entry: StatedPart) -> list[Any]:
    """What tells a candidate from another, each of its type."""
    mesh = [(name.text(), size.whole(2)) for name, size in (axis.pair() for axis in entry["mesh"].each())]
    return [mesh, entry["microbatches"].whole(1), *_rules(entry).values()]


def _rules(entry: StatedPart) -> dict[str, Any]:
    """The choices of a candidate besides its mesh, by field."""
    kinds = {
        "zero": entry["zero"].whole(),
        "recompute": entry["recompute"].whole(),
        "schedule": entry["schedule"].text(),
        "chunks": entry["chunks"].whole(1),
        "along": entry["along"].text(),
        "heads": entry["heads"].truth(),
        "rows": tuple(d.text() for d in entry["rows"].each()),
        "by": entry["by"].whole(),
        "offload": classes_of(entry["offload"]),
    }
    return {k: kinds[k] for k in FIELDS}


def _choices(entry: StatedPart, space: StatedSpace) -> tuple[dict[str, int], int, dict[str, Any]]:
    """The choices of a candidate, which has to be one of the space."""
    mesh: dict[str, int] = {}
    for axis in entry["mesh"].each():
        name, size = axis.pair()
        if name.text() in mesh:
            raise Unfounded(f"{entry.path}.mesh has `{name.text()}` twice", entry.path)
        mesh[name.text()] = size.whole(2)
    names = [name for name, _, _ in space.axes]
    m = entry["microbatches"].whole(1)
    rules = _rules(entry)
    if prod(mesh.values()) != space.devices or not set(mesh) <= set(names) or not space.can_be(mesh, m):
        raise Unfounded(f"{entry.path} is no strategy of the space", entry.path)
    _, can = space.choices(mesh)
    usual = [n for n in names if n in mesh]
    orders = [usual]
    if "data" in can["first"]:
        orders.append(sorted(usual, key=lambda a: space.kind(a) != "data"))
    if "data" in can["first"] and "stages" not in can["first"]:
        del orders[0]
    ways = {k: can[k] for k in FIELDS if k in can and k != "schedule"}
    pairs = {"schedule": (rules["schedule"], rules["chunks"]), "inside": (rules["heads"], rules["by"])}
    if list(mesh) not in orders or any(pair not in can[kind] for kind, pair in pairs.items()):
        raise Unfounded(f"{entry.path} is no strategy of the space", entry.path)
    for key, legal in ways.items():
        if rules[key] not in legal:
            raise Unfounded(f"{entry.path}.{key} is none of {legal}", entry.path)
    return mesh, m, rules


def _best(
    stated: StatedPart, own: Job | None, values: list[tuple[str, float | None]], around: AroundBest | None
) -> float | None:
    """What the best takes: the best of all that were tried. It has to be the file's, or what is better around it. None
    where nothing fits, and the file has another plan."""
    known = sorted(v for _, v in values if v is not None)
    rows = stated["best"].each()
    if own is None and not rows and not known and around is None:
        return None
    if not rows or not known:
        raise Unfounded("there is no best", "best")
    tried = {repr(entry_key(entry)): (entry, value) for entry, (_, value) in zip(stated["tried"].each(), values)}
    shown = []
    for row in rows:
        if (key := repr(entry_key(row))) not in tried or tried[key][1] is None:
            raise Unfounded(f"{row.path} was not tried", row.path)
        entry, value = tried[key]
        assert value is not None
        row["step_seconds"].be(entry["seconds"].value)
        row["needed_bytes"].be(entry["needed"].value)
        if row["bound"].number() > value * (1 + NEAR):
            raise Unfounded(f"{row.path}.bound is above what it bounds, {value:.6g}", row.path)
        shown.append(value)
    if not alike(shown, known[: len(shown)]):
        raise Unfounded("`best` are not the best of what was tried, in their order", "best")
    if own is None:
        return known[0]
    plan = price(own)
    if around is not None and around.value < known[0]:
        if (around.seconds, around.needed) != (plan.seconds, plan.needed):
            raise Unfounded("the file has another plan than the best that was tried around the best", "around")
        return known[0]
    rows[0]["step_seconds"].be(plan.seconds)
    rows[0]["needed_bytes"].be(plan.needed)
    return known[0]


def _counts(stated: StatedPart, tally: SpaceTally, values: list[tuple[str, float | None]], best: float) -> None:
    """The numbers, the lowest bound of what is left, and what follows from it."""
    of = stated["counts"]
    stated["space"]["total"].be(tally.total)
    of["discarded_by_number"].be(tally.total - tally.legal)
    of["too_large"].be(tally.too_large)
    codes: dict[str, int] = {}
    for code, value in values:
        if value is None and code != "unfit":
            codes[code] = codes.get(code, 0) + 1
    of["refused"].be(codes)
    of["unfit"].be(sum(code == "unfit" for code, _ in values))
    of["fitting"].be(sum(value is not None for _, value in values))
    rest = tally.legal - tally.too_large - len(values)
    if of["left"].whole() + of["not_better"].whole() != rest:
        raise Unfounded(f"counts.left and counts.not_better are not {rest:,} together", "counts")
    least, proved = stated["least"], stated["proved"].truth()
    if not least.none:
        least.number()
    if least.none:
        if tally.least is not None:
            raise Unfounded(f"nothing is said to be left, but a strategy has a bound of {tally.least:.6g}", "least")
        of["left"].be(0)
    elif of["left"].whole() < tally.left:
        raise Unfounded(f"counts.left is less than {tally.left:,}, of which no bound says enough", "counts")
    elif tally.least is not None and least.number() > tally.least * (1 + 1e-9):
        raise Unfounded(f"least is {least.number():.6g}, but a strategy has a bound of {tally.least:.6g}", "least")
    if proved != least.none:
        raise Unfounded("`proved` says something else than `least`", "proved")
    gap = 1.0 if least.none or best == inf else max(0.0, 1 - least.number() / best)
    stated["gap"].be(0.0 if least.none else gap)
