"""Random optimizers under random strategies: what an update reads of a weight, and across the iterations of a loop.

Models are small and plain; optimizers are put together of steps that take norms, means, maxima, rows and columns,
products and orders of a weight, over its own dims or over those of loops too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from random import Random

from tests.property.case import Case, Piece


@dataclass(frozen=True, slots=True)
class OptimizerCase(Case):
    """A case with an optimizer of its own: `steps`, each of lines that turn `u` (first the gradient) into another."""

    steps: tuple[Piece, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        return (*BASE_KINDS(self), *(s.kind for s in self.steps))

    @property
    def text(self) -> str:
        """The `.par` file."""
        pieces = (*self.steps, *self.after)
        needed = dict.fromkeys(name for p in pieces for name in FUNCTIONS if f"{name}(" in " ".join(p.lines))
        lines = [line for name in needed for line in FUNCTIONS[name]]
        lines += ["optimizer drawn_steps(lr) {", "  u = g", *(f"  {line}" for s in self.steps for line in s.lines)]
        return "\n".join([*lines, "  w = w - lr * u", "}", "", BASE_TEXT(self)])


# What `Case` makes of itself (a dataclass with slots is another class than the one that `super()` would look for).
BASE_TEXT: Callable[[Case], str] = Case.text.fget  # type: ignore[attr-defined]
BASE_KINDS: Callable[[Case], tuple[str, ...]] = Case.kinds.fget  # type: ignore[attr-defined]


def with_steps(case: Case, steps: tuple[Piece, ...]) -> OptimizerCase:
    """The case with an optimizer of its own."""
    return OptimizerCase(*(getattr(case, f.name) for f in fields(case)), steps)


def fitting(steps: tuple[Piece, ...], model: str) -> tuple[Piece, ...]:
    """Those that suit the weights of a model's text: one that is a number has no last dim."""
    numbers = re.search(r"weight [^~\n]*\w\[\]", model) is not None
    return tuple(s for s in steps if not (numbers and s.kind.startswith("last_"))) or VECTORS[:1]


# --- optimizers -----------------------------------------------------------------------------------

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "residual": ("fn residual(x[b,s,d]) {", "  dim e = d", "  weight inner[d,e] ~ normal(0.4)",
                 "  y[b,s,e] = x @ inner", "  return x + 0.3 * rename(y, e -> d)", "}"),
    "last_mean": ("fn last_mean(x[..., c]) {", "  return mean(x, over c)", "}"),
    "last_norm": ("fn last_norm(x[..., c]) {", "  return sqrt(sum(x * x, over c) + 1e-4)", "}"),
    "last_max": ("fn last_max(x[..., c]) {", "  return max(abs(x), over c)", "}"),
    "last_sums": ("fn last_sums(x[..., c]) {", "  return cumsum(x, over c)", "}"),
    "last_turned": ("fn last_turned(x[..., c]) {", "  return flip(x, over c)", "}"),
    "factored": (  # Adafactor's second moments: rows and columns
        "fn factored(x[..., r, c]) {",
        "  rows = mean(x * x, over c) + 1e-4",
        "  columns = mean(x * x, over r) + 1e-4",
        "  return x / sqrt(rows * columns / mean(rows, over r))",
        "}",
    ),
    "column_mean": ("fn column_mean(x[..., r, c]) {", "  return mean(x, over r)", "}"),
    "row_max": ("fn row_max(x[..., r, c]) {", "  return max(abs(x), over r)", "}"),
    "row_sums": ("fn row_sums(x[..., r, c]) {", "  return cumsum(x, over r)", "}"),
    "row_turned": ("fn row_turned(x[..., r, c]) {", "  return flip(x, over r)", "}"),
    "orthogonal": (  # Muon's step: Newton and Schulz
        "fn orthogonal(x[..., r, c]) {",
        "  y = x / (sqrt(sum(x * x, over (r, c))) + 1e-3)",
        "  repeat 2 as newton {",
        "    gram[..., r, o] = y @ rename(y, r -> o)",
        "    next[..., o, c] = gram @ y",
        "    y = 1.5 * y - 0.5 * rename(next, o -> r)",
        "  }",
        "  return y",
        "}",
    ),
    "whitened": (  # by the columns' products, once
        "fn whitened(x[..., r, c]) {",
        "  y = x / (sqrt(sum(x * x, over (r, c))) + 1e-3)",
        "  gram[..., c, o] = y @ rename(y, c -> o)",
        "  next[..., r, o] = y @ gram",
        "  return 1.5 * y - 0.5 * rename(next, o -> c)",
        "}",
    ),
    "bounded": (
        "fn bounded(x[..., r, c]) {",
        "  low = full(-0.5, r, c)",
        "  return maximum(minimum(x, ones(r, c)), low) + 0.1 * zeros(r, c)",
        "}",
    ),
    "numbered": ("fn numbered(x[..., r, c]) {", "  return x / (1.0 + cast(iota(r), master))", "}"),
    "merged": (
        "fn merged(x[..., r, c]) {",
        "  z = merge(x, (r, c) -> m)",
        "  return split(z - mean(z, over m), m -> (r, c))",
        "}",
    ),
    "turned_pair": (
        "fn turned_pair(x[..., r, c]) {",
        "  y[..., c, r] = x * 2.0",
        "  z[..., r, c] = y / (max(abs(y), over (r, c)) + 0.1)",
        "  return z",
        "}",
    ),
    "gram_norm": (
        "fn gram_norm(x[..., r, c]) {",
        "  gram[..., r, o] = x @ rename(x, r -> o)",
        "  return sqrt(sum(gram * gram, over (r, o)) + 1e-4)",
        "}",
    ),
}  # fmt: skip

VECTORS = (
    Piece("own_norm", ("u = u / (norm(u) + 0.01)",)),
    Piece("all_norm", ("u = u / (sqrt(sum(u * u)) + 0.01)",)),
    Piece("all_mean", ("u = u - mean(u)",)),
    Piece("all_max", ("u = u / (max(abs(u)) + 0.01)",)),
    Piece("all_min", ("u = u - 0.5 * min(u)",)),
    Piece("tensor_clip", ("u = u * minimum(1.0, 0.5 / (sqrt(sum(u * u)) + 1e-6))",)),
    Piece("own_clip", ("u = u * minimum(1.0, 0.5 / (norm(u) + 1e-6))",)),
    Piece("lars", ("u = u * where(norm(w) > 0.0, norm(w) / (norm(u) + 0.1 * norm(w) + 0.01), 1.0)", "u = u + 0.1 * w")),
    Piece("all_lars", ("u = u * sqrt(sum(w * w)) / (sqrt(sum(u * u)) + 0.01)",)),
    Piece("momentum", ("state m ~ zeros", "m = 0.9 * m + u", "u = m")),
    Piece("scaled_momentum", ("state k ~ zeros", "k = 0.9 * k + u / (max(abs(u)) + 0.1)", "u = k - mean(k)")),
    Piece("lamb", ("state a, v ~ zeros", "a = 0.9 * a + 0.1 * u", "v = 0.99 * v + 0.01 * u * u",
                   "e = a / (1.0 - 0.9 ** step) / (sqrt(v / (1.0 - 0.99 ** step)) + 0.01) + 0.01 * w",
                   "u = e * norm(w) / (norm(e) + 0.01)")),
    Piece("mixed", ("u = u * (0.1 + mean(w * w)) + 0.1 * w * max(u)",)),
    Piece("last_mean", ("u = u - last_mean(u)",)),
    Piece("last_norm", ("u = u / last_norm(u)",)),
    Piece("last_max", ("u = u / (last_max(u) + 0.1)",)),
    Piece("last_sums", ("u = 0.3 * last_sums(u)",)),
    Piece("last_turned", ("u = u + 0.5 * last_turned(u)",)),
)  # fmt: skip
"""Steps for weights with at least one dim."""

MATRICES = (
    Piece("factored", ("u = factored(u)",)),
    Piece("column_mean", ("u = u - column_mean(u)",)),
    Piece("row_max", ("u = u / (row_max(u) + 0.1)",)),
    Piece("row_sums", ("u = 0.3 * row_sums(u)",)),
    Piece("row_turned", ("u = u + 0.5 * row_turned(u)",)),
    Piece("orthogonal", ("u = orthogonal(u)",)),
    Piece("whitened", ("u = whitened(u)",)),
    Piece("bounded", ("u = bounded(u)",)),
    Piece("numbered", ("u = numbered(u)",)),
    Piece("merged", ("u = merged(u)",)),
    Piece("turned_pair", ("u = turned_pair(u)",)),
    Piece("gram_norm", ("u = u / gram_norm(u)",)),
)
"""Steps for weights with at least two, of which one may be that of a loop."""


def _steps(rng: Random, matrices: bool) -> tuple[Piece, ...]:
    """One to three, each of another kind (states have names)."""
    pool = [*VECTORS, *MATRICES, *MATRICES] if matrices else list(VECTORS)
    found = dict.fromkeys(rng.choice(pool) for _ in range(rng.randint(1, 3)))
    return tuple(found)


# --- models ---------------------------------------------------------------------------------------


def draw(seed: int) -> OptimizerCase:
    """The case of a seed; always the same."""
    rng = Random(f"optimizer {seed}")
    matrices = rng.random() < 0.6
    d, f = rng.choice([4, 6, 8]), rng.choice([4, 6, 8])
    head = (f"dim b = 24, s = 4, d = {d}, f = {f}", "input data : compute[b,s,d]", "x = data")
    before: list[Piece] = []
    after: list[Piece] = []
    pieces = [
        Piece("gain", ("weight gain[d] ~ uniform(0.5, 1.5)", "x = x * gain")),
        Piece(
            "mlp",
            ("weight up[d,f], down[f,d] ~ normal(0.4)", "t[b,s,f] = x @ up", "x[b,s,d] = x + tanh(t) @ down"),
        ),
        Piece(
            "nested",
            ("repeat 2 as inner {", "  weight turn[d] ~ normal(0.4)", "  x = x + 0.5 * sin(x * turn)", "}"),
        ),
        Piece("table", ("dim p = 2, q = d // 2", "weight grid[p,q,f] ~ normal(0.4)",
                        "t2[b,s,f] = split(x, d -> (p, q)) @ grid", "x = x * (1.0 + 0.1 * mean(t2, over f))")),
    ]  # fmt: skip
    single = rng.random() < 0.1  # one weight only
    loop = [pieces[0]] if single else rng.sample(pieces, rng.choice([1, 2, 2, 3]))
    if not single and not any(p.kind in ("mlp", "table") for p in loop):
        loop.append(pieces[1])  # strategies speak of `f`
    first: tuple[Piece, ...] = ()
    if not single:
        if not matrices and rng.random() < 0.5:
            before.append(Piece("first", ("weight early[d] ~ uniform(0.5, 1.5)", "x = x * early")))
        if rng.random() < 0.4:
            before.append(Piece("tied", ("weight shared[f,d] ~ normal(0.4)", "t3[b,s,f] = x @ shared")))
            if rng.random() < 0.5:
                loop.append(Piece("tied", ("t4[b,s,f] = x @ shared", "x = x + 0.1 * mean(sin(t4), over f)")))
            after.append(Piece("tied", ("x[b,s,d] = x + 0.3 * (t3 @ shared)",)))
        if rng.random() < 0.5:
            after.append(
                Piece("out", ("weight out[d,f] ~ normal(0.4)", "t5[b,s,f] = x @ out", "x = x * mean(t5, over f)"))
            )
        if rng.random() < 0.3:
            after.append(Piece("scope", ("x = residual(x) as left",)))
        if rng.random() < 0.3:  # a loop that no pipeline cuts
            first = (Piece("encoder", ("weight turned[d] ~ normal(0.4)", "x = x + 0.2 * tanh(x * turned)")),)
    count = rng.choice([2, 3, 4, 4, 5, 6])
    scopes = [name for name, on in (("encoder", first), ("left", "left" in str(after))) if on]
    mesh, rules = _strategy(rng, count, single, scopes)
    options = rng.choice(["", "", ", clip = 0.5"])
    precision = "f32" if seed % 7 == 6 else "f64"
    if rng.random() < 0.2:
        precision += f", loss_scale {rng.choice(['dynamic', '8'])}"
    weights = ("early", "shared", "out", "gain", "up", "turn", "turned", "inner", "grid")
    there = [n for n in weights if any(f"{n}[" in line for p in (*first, *before, *loop, *after) for line in p.lines)]
    some = len(there) > 1 and rng.random() < 0.25
    frozen = (Piece("frozen", (f"frozen *.{rng.choice(there)}",)),) if some else ()
    tail = Piece("square", ("metric size = mean(abs(x))", "loss mean(x * x)"))
    return OptimizerCase(
        seed, head, first, 3 if first else 0, (), tuple(before), tuple(loop), count, tuple(after), tail, mesh, rules,
        f"drawn_steps(lr = 0.05{options})", precision, frozen, _steps(rng, matrices),
    )  # fmt: skip


# --- strategies -----------------------------------------------------------------------------------


def _strategy(
    rng: Random, count: int, single: bool, scopes: list[str]
) -> tuple[tuple[tuple[str, int], ...], tuple[Piece, ...]]:
    mesh: dict[str, int] = {}
    rules: list[Piece] = []
    if scopes and rng.random() < 0.3:
        mesh["pp"] = 2
        row = sorted([*scopes, "block"], key=["encoder", "block", "left"].index)  # values pass one way
        behind = rng.randint(1, len(row))
        lines = tuple(f"place {name} on pp[{int(i >= behind)}]" for i, name in enumerate(row))
        rules.append(Piece("places", lines))
        if rng.random() < 0.5:
            rules.append(Piece("microbatches", ("microbatches 2 over b",)))
    elif rng.random() < 0.8:
        mesh["pp"], rule = _pipeline(rng, count)
        rules.append(rule)
    elif rng.random() < 0.5:
        rules.append(Piece("microbatches", ("microbatches 2 over b",)))
    if rng.random() < 0.5:
        mesh["dp"] = 2
        rules.append(Piece("data_parallel", ("data_parallel(dp)",)))
    if rng.random() < 0.5:
        mesh["tp"], rule = rng.choice(
            [(2, Piece("columns", ("split d on tp",)))]
            if single
            else [
                (2, Piece("tp", ("split f on tp",))),
                (2, Piece("tp", ("split f, d on tp",))),
                (2, Piece("columns", ("split d on tp for weights",))),
                (2, Piece("sequence", ("split f, s on tp",))),
                (3, Piece("pad", ("split f, d on tp pad",))),
                (2, Piece("own", ("split d, f on tp for optimizer, weights",))),
            ]
        )
        rules.append(rule)
    shardable = [a for a in mesh if a != "pp"]
    if shardable and rng.random() < 0.6:
        classes = rng.choice(["optimizer", "optimizer, gradients", "optimizer, gradients, weights"])
        pad = rng.choice(["", " pad"])
        rules.append(Piece("zero", (f"shard {classes} on {rng.choice(shardable)}{pad}",)))
    if rng.random() < 0.2:
        rules.append(Piece("recompute", ("recompute block",)))
    if not mesh:
        mesh["dp"] = 2
        rules.append(Piece("data_parallel", ("data_parallel(dp)",)))
    order = list(mesh.items())
    rng.shuffle(order)
    return tuple(order), tuple(rules)


def _pipeline(rng: Random, count: int) -> tuple[int, Piece]:
    """The number of stages, and the rule."""
    stages = rng.choice([n for n in (2, 2, 3, 4) if n <= count])
    schedule = rng.choice(["gpipe", "one_f_one_b", "interleaved", "zero_bubble"])
    micro, more, cuts = 2, "", ""
    if schedule == "interleaved":
        chunks = rng.choice([n for n in (1, 2, 3) if n * stages <= count])
        micro, more, pieces = stages if chunks > 1 else 2, f", chunks = {chunks}", stages * chunks
    else:
        pieces = stages
    if rng.random() < 0.4:
        cuts = f", cuts [{', '.join(map(str, sorted(rng.sample(range(1, count), pieces - 1))))}]"
    line = f"pipeline block on pp, schedule {schedule}(microbatches = {micro}{more}, over = b){cuts}"
    return stages, Piece(schedule, (line,))
