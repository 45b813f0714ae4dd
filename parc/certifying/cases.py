"""A certificate of several cases: each is held to the file with its values and its number of devices, and what is said
of all together to what each proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import inf, prod

from compiler.evaluate import evaluate_file
from compiler.graph import Type
from compiler.model import Job
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from dsl.parser import parse
from dsl.source import Source
from parc.certifying.check import FORMAT, Certified, HeldSearch, hold_search
from parc.certifying.stated import StatedPart, Unfounded
from parc.price import price

MOST = 64
"""Cases of a certificate."""

MINIMISED = ("step", "memory", "device-time")
"""Days are a number of steps, so that the same is least."""

NEAR = 1 - 1e-9
"""Sums of floats hang on their order."""

NOTHING_FITS = "E0951"


@dataclass(frozen=True, slots=True)
class CaseSize:
    """What a case is: devices, samples and tokens of a step, and weights, by name and type."""

    devices: int
    samples: int
    tokens: int
    weights: tuple[tuple[str, Type], ...]


@dataclass(frozen=True, slots=True)
class HeldCase:
    """What a case was found to prove, in what is compared. value: of the best (None: nothing was found); low: what is
    left takes at least, and what was not looked for (None: there is no such); held: its search, if there was one; size:
    None where the job cannot be."""

    value: float | None
    low: float | None
    held: HeldSearch | None
    size: CaseSize | None = None


def certified_cases(stated: StatedPart, source: Source, own: Job) -> Certified:
    """Check a certificate of cases. own: the job with the file's plan. Raises Unfounded."""
    minimise = stated["minimise"].text()
    if minimise not in MINIMISED:
        raise Unfounded("`minimise` is nothing that cases are compared by")
    rows, at = stated["cases"].distinct(MOST), stated["best"].whole()
    _hold_asked(stated["asked"], rows)
    if at >= len(rows):
        raise Unfounded("`best` is none of the cases", "best")
    held = []
    for number, row in enumerate(rows):
        try:
            held.append(_held(row, stated, source, own if number == at else None, minimise))
        except Unfounded as error:
            raise error.of_case(number + 1) from None
    for number, row in enumerate(rows):
        if not row["limit"].none and not _is_limit(row["limit"].number(), held, number, minimise):
            message = "its limit is not what another case of as few devices and samples takes"
            raise Unfounded(message, "cases").of_case(number + 1)
    values = [case.value for case in held]
    best, winner = values[at], held[at].held
    if best is None or winner is None or any(value is not None and value < best * NEAR for value in values):
        raise Unfounded("another case than the one that is said to be the best has better", "best")
    least = min((case.low for case in held if case.low is not None and case.low < best * NEAR), default=None)
    stated["gap"].be(0.0 if least is None else max(0.0, 1 - least / best))
    searched = all(row["code"].text() or not row["certificate"].none for row in rows)
    stated["proved"].be(searched and all(case.held is None or case.held.least is None for case in held))
    stated.unasked()
    told = [case.held.told for case in held if case.held is not None]
    return replace(
        winner.told,
        space=f"of the best of {len(rows)} cases: {winner.told.space}",
        strategies=sum(of.strategies for of in told),
        priced=sum(of.priced for of in told),
        gap=stated["gap"].number(),
    )


def _hold_asked(asked: StatedPart, rows: Sequence[StatedPart]) -> None:
    """There is a case for each choice of what was asked for, and no other. devices: none where the cluster's are."""
    values = {name: [v.text() for v in of.distinct(MOST)] for name, of in asked["params"].items().items()}
    devices: list[int | None] = [n.whole(1) for n in asked["devices"].distinct(MOST)]
    if prod(map(len, values.values())) * max(1, len(devices)) > MOST:
        raise Unfounded(f"`asked` has more than {MOST} cases", "asked")
    wanted = [
        (dict(zip(values, of, strict=True)), number) for of in product(*values.values()) for number in devices or [None]
    ]
    there = []
    for row in rows:
        params = {name: value.text() for name, value in row["params"].items().items()}
        there.append((params, row["devices"].whole() if devices else None))
    if any(case in there[:n] for n, case in enumerate(there)):
        raise Unfounded("`cases` has one twice", "cases")
    if strange := next((case for case in there if case not in wanted), None):
        raise Unfounded(f"`cases` has {_named(*strange)}, which nobody asked for", "cases")
    left = [name.text() for name in asked["without"].distinct(MOST)]
    for search in (of["certificate"] for of in rows):
        if not search.none:
            search["space"]["left_out"].be(left)
    if missing := next((case for case in wanted if case not in there), None):
        raise Unfounded(f"`cases` has none of {_named(*missing)}, which was asked for", "cases")


def _named(params: Mapping[str, str], devices: int | None) -> str:
    """A case, in words."""
    of = [f"{name} = {value}" for name, value in params.items()]
    return ", ".join([*of, *([] if devices is None else [f"{devices:,} devices"])])


def _is_limit(limit: float, held: Sequence[HeldCase], at: int, minimise: str) -> bool:
    """Whether another case with the same weights and as few devices and samples is as good as a case's limit (bytes, or
    seconds of a step): only then nobody wants what is not below it."""
    size = held[at].size
    for number, other in enumerate(held):
        of = other.size
        if number == at or of is None or size is None or other.value is None or of.weights != size.weights:
            continue
        each = other.value if minimise == "memory" else other.value * max(1, size.tokens)
        each /= of.devices if minimise == "device-time" else 1
        if of.devices <= size.devices and of.samples <= size.samples and each <= limit / NEAR:
            return True
    return False


def _held(row: StatedPart, stated: StatedPart, source: Source, own: Job | None, minimise: str) -> HeldCase:
    """One case. own: the job with the file's plan, if it is of this one."""
    params = {name: value.text() for name, value in row["params"].items().items()}
    name, code = stated["job"].text(), row["code"].text()
    limit = inf if row["limit"].none else row["limit"].number()
    inner = row["certificate"]
    if own is not None:
        _hold_defaults(source, params)
    if inner.none and code:
        for key in ("levels", "limit", "value"):
            row[key].be(None)
        row["devices"].whole()
        _hold_code(source, params, name, code)
        return HeldCase(None, None, None)
    of = _of_cluster(source, params, name, row)
    size = _size(of, params, name)
    if inner.none:
        row["value"].be(None)
        return HeldCase(None, 0.0, None, size)
    inner.items()  # all of which is held as a certificate of its own
    search = StatedPart(inner.value)
    search["format"].be(FORMAT)
    search["job"].be(name)
    search["minimise"].be("memory" if minimise == "memory" else "step")
    held = hold_search(search, of, own, params, limit)
    row["code"].be(NOTHING_FITS if held.value is None else "")
    low = min(limit, inf if held.least is None else held.least)
    tokens = size.tokens if held.tokens is None else held.tokens
    value = None if held.value is None else _compared(held.value, tokens, size.devices, minimise)
    row["value"].be(value)
    return HeldCase(value, None if low == inf else _compared(low, tokens, size.devices, minimise), held, size)


def _size(source: Source, params: Mapping[str, str], name: str) -> CaseSize:
    """Tokens are all elements of the first input of whole numbers in two dims, else samples."""
    job = evaluate_file(source, params, name, "serial").job
    assert job.cluster is not None
    types = [i.value.type for i in job.model.inputs]
    samples = next((t.dims[0].size for t in types if t.dims), 1)
    tokens = next((prod(t.shape) for t in types if t.dtype == "int32" and len(t.dims) == 2), samples)
    weights = tuple((w.value.name, w.value.type) for w in job.model.weights)
    return CaseSize(job.cluster.devices, samples, tokens, weights)


def _compared(value: float, tokens: int, devices: int, minimise: str) -> float:
    """Bytes; or seconds of a token, of all devices if that is minimised."""
    if minimise == "memory":
        return value
    return value / max(1, tokens) * (devices if minimise == "device-time" else 1)


def _hold_defaults(source: Source, params: Mapping[str, str]) -> None:
    """The file's own parameters have the values of the case whose plan it has."""
    file = parse(source.text, source.name)
    there = {i.name.id: i.default for i in file.items if isinstance(i, ast.Param)}
    for name, value in params.items():
        own = there.get(name)
        if own is None or not _same_value(own, value):
            text = "not there" if own is None else source.text[own.span.start : own.span.end]
            raise Unfounded(f"the file's `{name}` is {text}, and not {value}", "cases")


def _same_value(own: ast.Expr, text: str) -> bool:
    """Whether a value, as it is set from outside, is what the file has: a text comes without quotes."""
    if isinstance(own, ast.String) and not text.startswith('"'):
        return own.value == text
    try:
        (item,) = parse(f"param p = {text}\n", "<-D>").items
    except (ParcError, ValueError):
        return False
    return isinstance(item, ast.Param) and item.default == own


def _hold_code(source: Source, params: Mapping[str, str], name: str, code: str) -> None:
    """With these values the job is refused."""
    try:
        price(evaluate_file(source, params, name, "serial").job)
    except ParcError as error:
        found = next((d.code for d in error.diagnostics if d.severity == "error"), "")
        if found == code:
            return
        raise Unfounded(f"it is refused with {found}, and not with {code}", "cases") from None
    raise Unfounded("it is not refused", "cases")


def _of_cluster(source: Source, params: Mapping[str, str], name: str, row: StatedPart) -> Source:
    """The file with as many devices in the levels of the job's cluster. Raises Unfounded where it has other levels."""
    counts = [level.whole(1) for level in row["levels"].each()]
    try:
        cluster = evaluate_file(source, params, name, "serial").job.cluster
    except ParcError as error:
        raise Unfounded(f"with these values the job cannot be: {error}", "cases") from None
    if cluster is None or len(cluster.levels) != len(counts):
        raise Unfounded("the job's cluster has other levels", "cases")
    text = source.text
    if counts != [level.count for level in cluster.levels]:
        file = parse(source.text, source.name)
        (job,) = (i for i in file.items if isinstance(i, ast.Job) and i.name.id == name)
        named = next((s.cluster.function.id for s in job.body if isinstance(s, ast.Task) and s.cluster), "")
        item = next((i for i in file.items if isinstance(i, ast.Cluster) and i.name.id == named), None)
        levels = [s for s in item.body if isinstance(s, ast.Level)] if item is not None else []
        if len(levels) != len(counts):
            raise Unfounded("the job's cluster stands in another file, and has other counts", "cases")
        for level, count in sorted(zip(levels, counts), key=lambda pair: -pair[0].count.span.start):
            text = f"{text[: level.count.span.start]}{count}{text[level.count.span.end :]}"
    found = replace(source, text=text)
    made = evaluate_file(found, params, name, "serial").job.cluster
    if made is None or [level.count for level in made.levels] != counts:
        raise Unfounded("the job's cluster has other levels", "cases")
    row["devices"].be(made.devices)
    return found
