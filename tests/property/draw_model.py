"""Random models: families of inputs and losses, and what stands before, in and after a loop, or two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.property.case import Piece
from tests.property.pieces import (
    ANYWHERE,
    IMAGE,
    SEQUENCE,
    Drawing,
    attend_other,
    dense,
    forward,
    pooled,
    scaled,
    smooth,
)


@dataclass(frozen=True)
class Model:
    """The drawn parts of a model."""

    head: tuple[str, ...]
    first: tuple[Piece, ...]
    first_count: int
    bridge: tuple[str, ...]
    before: tuple[Piece, ...]
    loop: tuple[Piece, ...]
    count: int
    after: tuple[Piece, ...]
    tail: Piece


def draw_model(rng: Random) -> tuple[Model, Drawing]:
    """A model and what strategies may speak of."""
    d = Drawing(rng)
    family = rng.choice(["sequence", "sequence", "tokens", "tokens", "image", "table", "pair"])
    head, tail = _FAMILIES[family](d)
    special = SEQUENCE if family in ("sequence", "tokens", "pair") else IMAGE if family == "image" else (forward, dense)
    for name, size in d.sizes.items():
        d.dim(name, size)

    def pieces(low: int, high: int, inside: str) -> tuple[Piece, ...]:
        d.inside = inside
        found = []
        for _ in range(rng.randint(low, high)):
            known = d.known()
            piece = rng.choice(special if rng.random() < 0.55 else ANYWHERE)(d)
            if piece is not None:
                found.append(piece)
            assert piece is not None or d.known() == known, "a piece that does not fit leaves nothing to speak of"
        if low and not found:  # none of them fits: a loop is there all the same, as rules speak of it
            found.append(smooth(d))
        return tuple(found)

    first: tuple[Piece, ...] = ()
    bridge: tuple[str, ...] = ()
    if family == "pair":
        first = pieces(1, 2, "encoder")
        bridge = _other_side(d)
    before = pieces(0, 1, "")
    loop = pieces(1, 3, "block")
    if family == "pair":
        d.inside = "block"
        loop = (*loop, attend_other(d))
    d.inside = ""
    before = (*before, *_metrics(d, "early", 0.15))
    tied = rng.random() < 0.25
    if tied:  # one weight, read in every iteration, and once before the loop
        last = list(d.sizes)[-1]
        d.weights.append(("shared", (last,)))
        before = (Piece("tied", (f"weight shared[{last}] ~ normal(0.5)", "x = x * (1.0 + shared)")), *before)
        loop = (*loop, Piece("tied", ("x = x + 0.5 * sin(x * (1.0 + shared))",)))
    d.inside = ""
    after = pieces(0, 1, "")
    if rng.random() < 0.3:
        early, late = _around(d)
        before, after = (*before, early), (late, *after)
    if family == "image" and rng.random() < 0.5 and d.sizes["y"] % 4 == 0:
        after = (*after, pooled(d))  # last: the dims' declared sizes are those before
    if not d.weights and not d.holders:  # what trains nothing proves little
        before = (*before, scaled(d))
    loops = ["encoder", "block"] if first else ["block"]
    after = (*after, *_metrics(d, "late", 0.3), *_output(d))
    d.scopes += loops
    d.holders += [loop for loop in loops if any(path.startswith(f"{loop}.") for path, _ in d.weights)]
    counts = rng.choice([1, 2, 2, 2, 3, 3]), rng.choice([1, 2, 2, 2, 3, 3, 4, 4])
    return Model(head, first, counts[0], bridge, before, loop, counts[1], after, tail(d)), d  # which adds its dims


def _metrics(d: Drawing, name: str, share: float) -> tuple[Piece, ...]:
    """Numbers about the running tensor, the data or a weight: means, maxima, and what is made of them."""
    if d.rng.random() >= share:
        return ()
    top = [path for path, _ in d.weights if "." not in path and not path.startswith("shared")]
    value = d.rng.choice(["x", "x", "x", *(["data"] if d.data else []), *top[:1]])
    kind, text = d.rng.choice(
        [
            ("mean", "mean({})"),
            ("sum", "sum(0.1 * {} * {})"),
            ("max", "max(abs({}))"),
            ("max", "max({}) - min({})"),
            ("ratio", "sum({} * {}) / (1.0 + sum(abs({})))"),
            ("ratio", "sqrt(mean({} * {})) / (0.1 + max(abs({})))"),
            ("count", "mean(cast({} > 0.0, master))"),
        ]
    )
    return (Piece(f"metric_{kind}", (f"metric {name} = {text.replace('{}', value)}",)),)


def _output(d: Drawing) -> tuple[Piece, ...]:
    """What the model puts out besides: of each position, of the whole batch, or of no data."""
    rng = Random(repr((d.sizes, d.weights)))  # of its own: other parts are drawn as they always were
    if rng.random() >= 0.4:
        return ()
    top = [path for path, _ in d.weights if "." not in path and not path.startswith("shared")]
    last = list(d.sizes)[-1]
    each = ["0.5 * x", f"mean(x, over {last})", "x > 0.1"]
    whole = ["sum(x, over b)", "max(x, over b)", "mean(x)", *(f"2.0 * {w}" for w in top[:1])]
    value = rng.choice(each + whole)
    kind = "each" if value in each else "whole"
    return (Piece(f"output_{kind}", (f"shown = {value}", rng.choice(["output shown", "output shown, x"]))),)


Tail = Callable[[Drawing], Piece]


def _around(d: Drawing) -> tuple[Piece, Piece]:
    """What is made before the loop and read behind it: past all stages of a pipeline."""
    last = list(d.sizes)[-1]
    e = d.name("e")
    renamed, back = f"rename(x, {last} -> {e})", f"rename(early, {e} -> {last})"
    made, read = d.rng.choice([("0.5 * x", "early"), (renamed, back), ("tanh(x)", "early"), ("", "early")])
    lines: tuple[str, ...] = (f"early = {made}",)
    if not made:  # a product with a weight
        w = d.weight((last, e))
        lines = (f"dim {e} = {d.sizes[last]}", f"weight {w}[{last},{e}]", f"early[{d.dims}] = {renamed} @ {w}")
    return Piece("around", lines), Piece("around", (f"x = x + 0.5 * {read}",))


def _sizes(drawing: Drawing, /, **choices: list[int]) -> None:
    drawing.sizes = {name: drawing.rng.choice(options) for name, options in choices.items()}


def _declared(d: Drawing) -> str:
    return "dim " + ", ".join(f"{n} = {s}" for n, s in d.sizes.items())


def _square(d: Drawing) -> Piece:
    if d.rng.random() < 0.4:
        return Piece("square", ("metric size = mean(abs(x))", "loss mean(x * x)"))
    if d.data and d.rng.random() < 0.4:  # where the data say so
        over = next(n for n in d.sizes if n != "b")
        return Piece(
            "counted", (f"kept = cast(max(data, over {over}) > 0.5, compute)", f"loss {_counted('x * x', over)}")
        )
    return Piece("square", ("loss mean(x * x)",))


def _counted(each: str, *over: str) -> str:
    """The mean of what is kept of it, after the mean over some dims."""
    each = f"mean({each}, over {', '.join(over)})" if over else each
    return f"sum({each} * kept) / maximum(sum(kept), 1.0)"


def _head(d: Drawing) -> Piece:
    """A head of its own and labels; the label's dims are those of `x` less the last."""
    d.dim("v", 12, "head")
    d.scopes.append("head")
    d.holders.append("head")
    return _classes(d, "head", "logits = linear(x, over v, std = 0.3) as head")


def _classes(d: Drawing, kind: str, *lines: str) -> Piece:
    """The loss of logits: the mean, or that of the labels that count."""
    more = ["metric right = accuracy(logits, label, over v)"] if d.rng.random() < 0.2 else []
    if d.rng.random() >= 0.35:
        return Piece(kind, (*lines, *more, "loss cross_entropy(logits, label, over v)"))
    more.append(f"kept = cast(label {d.rng.choice(['!= 0', '> 4', '< 3'])}, master)")
    more.append("picked = take(log_softmax(logits, over v), label, over v)")
    sign = d.rng.choice(["-", "-", "2.0 - "])
    return Piece(f"counted_{kind}", (*lines, *more, f"loss {sign}sum(picked * kept) / maximum(sum(kept), 1.0)"))


def _sequence(d: Drawing) -> tuple[tuple[str, ...], Tail]:
    _sizes(d, b=[8, 8, 12, 16, 16], s=[4, 8, 8, 8, 8, 1], d=[8])
    head = [_declared(d), "input data : compute[b,s,d]", "x = data"]
    d.data = True
    if d.rng.random() < 0.5:
        head[0] += ", v = 12"
        head.insert(1, "input label : int32[b,s] in 0..v")
        return tuple(head), _head
    if d.rng.random() < 0.5:
        return tuple([*head, "input target : compute[b,s,d]"]), lambda d: Piece("mse", ("loss mse(x, target)",))
    return tuple(head), _square


def _tokens(d: Drawing) -> tuple[tuple[str, ...], Tail]:
    """Words in, words out; the table is read at both ends or each end has its own."""
    _sizes(d, b=[8, 8, 12, 16, 16], s=[4, 8, 8, 8, 8, 1], d=[8])
    d.dim("v", 12)
    d.weights.append(("table", ("v", "d")))
    head = (
        f"{_declared(d)}, v = 12",
        "input tokens, label : int32[b,s] in 0..v",
        "weight table[v,d] ~ normal(0.5)",
        "x[b,s,d] = take(table, tokens, over v)",
    )

    def tied(d: Drawing) -> Piece:
        return _classes(d, "tied_head", "logits[b,s,v] = x @ table")

    return head, tied if d.rng.random() < 0.6 else _head


def _pair(d: Drawing) -> tuple[tuple[str, ...], Tail]:
    """Two sequences: what a first loop makes of one is read in every iteration of a second loop, over the other."""
    _sizes(d, b=[8, 8, 12, 16, 16], u=[4, 8], d=[8])
    s, t = d.rng.choice([4, 8]), d.sizes["u"]
    d.dim("s", s)
    d.dim("t", t)
    dims = f"{_declared(d)}, s = {s}, t = {t}"
    inputs = "input data : compute[b,u,d]", "input other : compute[b,s,d]"
    if d.rng.random() < 0.3:
        return (dims, *inputs, "x = data"), _square
    return (f"{dims}, v = 12", *inputs, "input label : int32[b,s] in 0..v", "x = data"), _head


def _other_side(d: Drawing) -> tuple[str, ...]:
    """Between the loops: what the first has made is kept, and the other sequence is the running tensor."""
    d.sizes = {"b": d.sizes["b"], "s": d.splittable["s"], "d": d.sizes["d"]}
    made = d.rng.choice(["x", "layer_norm(x)", "tanh(x)"])
    return f"memory = rename({made}, u -> t)", "x = other"


def _image(d: Drawing) -> tuple[tuple[str, ...], Tail]:
    _sizes(d, b=[4, 8, 16], y=[8], x=[8, 4], c=[4])
    head = (f"{_declared(d)}, v = 12", "input data : compute[b,y,x,c]", "input label : int32[b] in 0..v", "x = data")

    def tail(d: Drawing) -> Piece:
        d.dim("v", 12, "head")
        d.scopes.append("head")
        d.holders.append("head")
        flat = "flat = mean(x, over (y, x))"
        return _classes(d, "pooled_head", flat, "logits = linear(flat, over v, std = 0.3) as head")

    return head, tail if d.rng.random() < 0.7 else _square


def _table(d: Drawing) -> tuple[tuple[str, ...], Tail]:
    _sizes(d, b=[8, 12, 16], d=[8, 12])
    d.data = True
    return (_declared(d), "input data : compute[b,d]", "x = data"), _square


_FAMILIES: dict[str, Callable[[Drawing], tuple[tuple[str, ...], Tail]]] = {
    "sequence": _sequence, "tokens": _tokens, "image": _image, "table": _table, "pair": _pair,
}  # fmt: skip
