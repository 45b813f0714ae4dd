"""What models are drawn of: layers of the library and raw operations, each with what strategies may say of it."""

from __future__ import annotations

from collections.abc import Callable

from tests.property.case import Piece
from tests.property.drawing import Drawing

# --- pieces for any tensor ------------------------------------------------------------------------


def smooth(d: Drawing) -> Piece:
    fn = d.rng.choice(
        [
            "tanh(x)",
            "sin(x)",
            "x * erfc(x)",
            "log1p(x * x)",
            "x * sigmoid(x)",
            "gelu(x)",
            "0.5 * x + 0.25 * x * x",
            "relu(x) + 0.1 * x",
        ]
    )
    return Piece("map", (f"x = {fn}",))


def scaled(d: Drawing) -> Piece:
    """Times a weight of some of the dims."""
    names = [n for n in d.sizes if n != "b" and d.rng.random() < 0.6] or [list(d.sizes)[-1]]
    w = d.weight(tuple(names))
    return Piece("scale", (f"weight {w}[{','.join(names)}] ~ normal(0.5)", f"x = x * (1.0 + {w})"))


def centred(d: Drawing) -> Piece:
    """Less the mean or the maximum over some dims (not the batch)."""
    over = d.rng.choice([n for n in d.sizes if n != "b"])
    fn = d.rng.choice(["mean", "max", "sum"])
    weight = "0.5 * " if fn == "max" else "" if fn == "mean" else "0.1 * "
    return Piece(f"reduce_{fn}", (f"x = x - {weight}{fn}(x, over {over})",))


def dense(d: Drawing) -> Piece:
    """Two raw contractions over the last dim."""
    last, width = list(d.sizes)[-1], d.rng.choice([4, 8, 12])
    f = d.rng.choice(["f", "h", "g"])
    known = d.declared.get(f, d.declared.get(d.path(f)))
    width = known or width
    d.declared.setdefault(d.path(f), width)
    one, two = d.weight((last, f)), d.weight((f, last))
    name = d.name("u")
    target = ",".join([*list(d.sizes)[:-1], f])
    d.dim(f, width)
    return Piece(
        "contract",
        (
            *([] if known else [f"dim {f} = {width}"]),
            f"weight {one}[{last},{f}], {two}[{f},{last}] ~ normal(0.3)",
            f"{name}[{target}] = x @ {one}",
            f"x[{d.dims}] = x + tanh({name}) @ {two}",
        ),
    )


def dropped(d: Drawing) -> Piece:
    return Piece("dropout", (f"x = dropout(x, 0.25) as {d.scope('drop', False)}",))


def where_map(d: Drawing) -> Piece:
    return Piece("where", ("x = where(x > 0.1, x, 0.3 * x * x)",))


def summed(d: Drawing) -> Piece:
    over = d.rng.choice([n for n in d.sizes if n != "b"])
    return Piece("cumsum", (f"x = x + 0.1 * cumsum(x, over {over})",))


def flipped(d: Drawing) -> Piece:
    over = d.rng.choice([n for n in d.sizes if n != "b"])
    return Piece("flip", (f"x = x + 0.5 * flip(x, over {over})",))


def shifted(d: Drawing) -> Piece | None:
    """A step along a dim: cut one end off, fill up the other."""
    over = d.rng.choice([n for n in d.sizes if n != "b"])
    size, t = d.sizes[over], d.name("cut")
    if size == 1:
        return None
    return Piece(
        "slice_pad",
        (f"dim {t} = {size - 1}", f"x = x + 0.5 * pad(slice(x, {over} -> {t}, 1..{size}), {t} -> {over}, 0, 1, 0.0)"),
    )


def doubled(d: Drawing) -> Piece:
    """Concatenated with another of its kind, then summed by a weight."""
    over = list(d.sizes)[-1]
    t = d.name("both")
    w = d.weight((t, over))
    target = d.dims
    return Piece(
        "concat",
        (
            f"dim {t} = {2 * d.sizes[over]}",
            f"weight {w}[{t},{over}] ~ normal(0.3)",
            f"x[{target}] = x + concat(x, cos(x), over {over} -> {t}) @ {w}",
        ),
    )


def in_parts(d: Drawing) -> Piece | None:
    """The last dim in two, scaled by a weight of one part."""
    last = list(d.sizes)[-1]
    if d.sizes[last] % 2:
        return None
    major, minor = d.name("p"), d.name("q")
    w = d.weight((major,))
    return Piece(
        "split_merge",
        (
            f"dim {major} = 2, {minor} = {d.sizes[last] // 2}",
            f"weight {w}[{major}] ~ normal(0.5)",
            f"x = merge(split(x, {last} -> ({major}, {minor})) * (1.0 + {w}), ({major}, {minor}) -> {last})",
        ),
    )


def positions(d: Drawing) -> Piece:
    over = d.rng.choice([n for n in d.sizes if n != "b"])
    return Piece("iota", (f"x = x + 0.1 * sin(cast(iota({over}), compute))",))


def windowed(d: Drawing) -> Piece:
    """A convolution along one dim, by hand."""
    over, apart = d.rng.choice([n for n in d.sizes if n != "b"]), d.rng.choice([1, 1, 2])
    k, o = d.name("k"), d.name("o")
    w = d.weight((k,))
    target = ",".join(o if n == over else n for n in d.sizes)
    value = d.name("z")
    return Piece(
        "window",
        (
            f"dim {k} = 3, {o} = {d.sizes[over]}",
            f"weight {w}[{k}] ~ normal(0.4)",
            f"{value}[{target}] = window(x, {over} -> ({o}, {k}), pad = {apart}, dilation = {apart}) @ {w}",
            f"x = x + rename({value}, {o} -> {over})",
        ),
    )


def kept(d: Drawing) -> Piece:
    """Shares of some along a dim: in some rows of none."""
    over = d.rng.choice([n for n in d.sizes if n != "b"])
    return Piece("softmax_keep", (f"x = x + softmax(2.0 * x, over {over}, keep = x > 0.3)",))


def best(d: Drawing) -> Piece:
    """The sum of the largest two."""
    over, j = list(d.sizes)[-1], d.name("j")
    v, i = d.name("top"), d.name("at")
    return Piece(
        "top_k",
        (f"dim {j} = 2", f"{v}, {i} = top_k(x, over {over} -> {j})", f"x = x + 0.2 * sum({v}, over {j})"),
    )


def nested(d: Drawing) -> Piece:
    """A loop inside."""
    w, last = d.name("w"), list(d.sizes)[-1]
    label = d.name("inner")
    return Piece(
        "nested",
        (
            f"repeat 2 as {label} {{",
            f"  weight {w}[{last}] ~ normal(0.3)",
            f"  x = x + 0.5 * tanh(x * {w})",
            "}",
        ),
    )


def looked_up(d: Drawing) -> Piece:
    """Rows of a table, chosen by the sign of a weighted sum (a plain one may be zero but for rounding)."""
    last = list(d.sizes)[-1]
    v = d.name("rows")
    w = d.weight((v, last))
    return Piece(
        "take",
        (
            f"dim {v} = 4",
            f"weight {w}[{v},{last}] ~ normal(0.5)",
            f"at{v} = sum(x * cos(cast(iota({last}), compute)), over {last}) > 0.0",
            f"x = x + take({w}, cast(at{v}, int32), over {v})",
        ),
    )


def adapted(d: Drawing) -> Piece:
    """A product with low-rank adapters beside it."""
    last, label = list(d.sizes)[-1], d.scope("lora")
    d.weights += [(d.path(f"{label}.base"), (last, "z")), (d.path(f"{label}.low"), (last, "rank"))]
    d.dim("z", d.sizes[last], label)
    return Piece("lora", (f"x[{d.dims}] = x + 0.5 * tanh(adapted(x, {d.rng.choice([1, 2, 3])}) as {label})",))


def deep(d: Drawing) -> Piece:
    """A loop in a scope in a scope."""
    label, count = d.scope("deep"), d.rng.choice([1, 2, 3])
    return Piece("deep", (f"x = deep(x, {count}) as {label}",))


def recurrent(d: Drawing) -> Piece:
    """Position by position along a dim, with a weight that all positions share."""
    over = d.rng.choice([n for n in d.sizes if n != "b"])
    rest = [n for n in d.sizes if n != over]
    own = tuple(n for n in rest[-1:] if n != "b")  # a weight for each sample is nothing that anyone has
    w, h, label = d.weight(own), d.name("h"), d.name("scan")
    step = d.rng.choice([f"tanh(x + {w} * {h})", f"0.5 * {h} + {w} * x", f"sin({h}) * {w} + x"])
    return Piece(
        "scan",
        (
            f"weight {w}[{', '.join(own)}] ~ normal(0.5)",
            f"{h} = zeros({', '.join(rest)})",
            f"scan over {over} as {label} {{",
            f"  {h} = {step}",
            f"  x = x + 0.3 * {h}",
            "}",
        ),
    )


def moved(d: Drawing) -> Piece | None:
    """Some places along a dim."""
    over = d.rng.choice([n for n in d.sizes if n != "b"])
    if d.sizes[over] == 1:
        return None
    by = d.rng.choice([1, -1]) * d.rng.randrange(1, d.sizes[over])
    return Piece("shift", (f"x = x + 0.5 * shift(x, {over}, by = {by})",))


def noisy(d: Drawing) -> Piece:
    return Piece("normal", (f"x = x + 0.1 * cast(normal({', '.join(d.sizes)}), compute)",))


def set_rows(d: Drawing) -> Piece | None:
    """Some rows are others' values: every second one those of the first half, some of them named twice."""
    over, t = d.rng.choice([n for n in d.sizes if n != "b"]), d.name("r")
    half = d.sizes[over] // 2
    if not half:
        return None
    rows = f"slice(x, {over} -> {t}, 0..{2 * half}, step = 2)"
    return Piece(
        "scatter",
        (f"dim {t} = {half}", f"x = scatter(x, sin({rows}), {d.rng.choice([1, 2])} * iota({t}) // 2, over {over})"),
    )


def masked(d: Drawing) -> Piece:
    """Positions are left out, by data or by where they stand."""
    over = d.rng.choice([n for n in d.sizes if n != "b"])
    kept = f"iota({over}) < {max(1, d.sizes[over] // 2)}"
    test = d.rng.choice([kept, f"{kept} or x > 0.0", f"not {kept} and x < 1.0"])
    return Piece("mask", (f"x = where({test}, x + 0.2 * x * x, 0.5 * x)",))


def reversed_rows(d: Drawing) -> Piece:
    """Rows by their numbers: gathered forward, scattered backward."""
    over, t = d.rng.choice([n for n in d.sizes if n != "b"]), d.name("r")
    n = d.sizes[over]
    back = f"rename(take(x, {n - 1} - iota({t}), over {over}), {t} -> {over})"
    return Piece("gather", (f"dim {t} = {n}", f"x = x + 0.3 * {back}"))


def stopped(d: Drawing) -> Piece:
    """What no derivative passes: of a value, or of a weight that is therefore not trained."""
    last = list(d.sizes)[-1]
    if d.rng.random() < 0.5:
        return Piece("stop_gradient", ("x = x + 0.3 * stop_gradient(sin(x)) * x",))
    w = d.weight((last,))
    return Piece("stop_gradient", (f"weight {w}[{last}] ~ normal(0.5)", f"x = x * (1.0 + stop_gradient({w}))"))


def unit(d: Drawing) -> Piece:
    """Through a dim of size 1."""
    last, one = list(d.sizes)[-1], d.name("one")
    w = d.weight((last, one))
    u = d.name("u")
    rest = ",".join([*list(d.sizes)[:-1], one])
    lines = f"dim {one} = 1", f"weight {w}[{last},{one}] ~ normal(0.4)", f"{u}[{rest}] = x @ {w}"
    return Piece("unit", (*lines, f"x = x * (1.0 + 0.3 * sum(tanh({u}), over {one}))"))


ANYWHERE: tuple[Callable[[Drawing], Piece | None], ...] = (
    smooth, scaled, centred, dense, dense, dropped, where_map, summed, flipped, shifted, doubled, in_parts, positions,
    windowed, kept, best, nested, recurrent, moved, noisy, set_rows,
    looked_up, adapted, adapted, deep, masked, reversed_rows, stopped, unit,
)  # fmt: skip

# --- pieces for sequences -------------------------------------------------------------------------


def attend(d: Drawing) -> Piece:
    heads = d.rng.choice([2, 4])
    more = d.rng.choice(["", "", ", causal = false", ", drop = 0.25"])
    norm = d.rng.choice(["layer_norm(x)", "x", "rms_norm(x)"])
    label = d.scope("att")
    d.dim("h", heads, label)
    d.weights.append((d.path(f"{label}.wo"), ("h", "k", "d")))
    return Piece("attention", (f"x = x + attention({norm}, {heads}{more}, std = 0.3) as {label}",))


def attend_other(d: Drawing) -> Piece:
    """To what the first loop has made."""
    heads = d.rng.choice([2, 4])
    norm = d.rng.choice(["layer_norm(x)", "x", "rms_norm(x)"])
    label = d.scope("cross")
    d.dim("h", heads, label)
    d.weights.append((d.path(f"{label}.wk"), ("d", "h", "k")))
    return Piece("cross_attention", (f"x = x + cross_attention({norm}, memory, {heads}, std = 0.3) as {label}",))


def attend_grouped(d: Drawing) -> Piece:
    kv = d.rng.choice([1, 2])
    label = d.scope("gqa")
    d.dim("h", kv, label)
    d.dim("r", 4 // kv, label)
    call = f"grouped_attention(rms_norm(x), 4, {kv}, std = 0.3)"
    return Piece("grouped_attention", (f"x = x + {call} as {label}",))


def forward(d: Drawing) -> Piece:
    fn = d.rng.choice(["mlp", "relu_mlp", "swiglu"])
    width = d.rng.choice([8, 16, 12])
    label = d.scope("ff")
    d.dim("f", width, label)
    last = list(d.sizes)[-1]
    d.weights.append((d.path(f"{label}.{'down' if fn == 'swiglu' else 'w2'}"), ("f", last)))
    return Piece(fn, (f"x = x + {fn}(layer_norm(x), {width}, std = 0.3) as {label}",))


def experts(d: Drawing) -> Piece:
    y, balance = d.name("y"), d.name("balance")
    label = d.scope("moe")
    d.dim("e", 4, label)
    capacity = d.rng.choice(["0.7", "1.25", "2.0"])
    more = d.rng.choice(
        ["", "", ", renormalise = true", ", shared = 8", ", pieces = 2", ", bounded = true, active = 1"]
    )
    if list(d.sizes.values())[1] % 2:  # positions
        more = more.replace(", pieces = 2", "")
    if d.rng.random() < 0.25:
        more += ", sigmoid = true, groups = 2, limit = 1"
    if list(d.sizes.values())[1] % 2:
        more = more.replace(", pieces = 2", "")
    if ", pieces" in more:
        d.dim("p", 2, label)
    call = f"moe(layer_norm(x), 4, 8, capacity = {capacity}{more}, std = 0.3)"
    return Piece("moe", (f"{y}, {balance} = {call} as {label}", f"x = x + {y}"))


def attend_latent(d: Drawing) -> Piece:
    heads = d.rng.choice([2, 4])
    label = d.scope("mla")
    d.dim("h", heads, label)
    call = f"latent_attention(rms_norm(x), {heads}, {d.rng.choice([0, 6])}, 6, 3, 2, 4, std = 0.3)"
    return Piece("latent_attention", (f"x = x + {call} as {label}",))


SEQUENCE = (attend, attend, attend_grouped, attend_latent, forward, forward, experts)

# --- pieces for images ----------------------------------------------------------------------------


def convolve(d: Drawing) -> Piece:
    size = d.rng.choice([1, 3, 3])
    label = d.scope("conv")
    d.weights.append((d.path(f"{label}.w"), ("ky", "kx", "c", "co")))
    d.dim("co", d.sizes["c"], label)
    d.spoken += [(name, d.path(label), n) for name, n in (("c", d.sizes["c"]), ("ky", size), ("kx", size))]
    return Piece("conv", (f"x = x + conv(tanh(x), {d.sizes['c']}, size = {size}) as {label}",))


def normed(d: Drawing) -> Piece:
    return Piece("group_norm", (f"x = group_norm(x, groups = 2) as {d.scope('norm')}",))


IMAGE = (convolve, convolve, convolve, normed)


def pooled(d: Drawing) -> Piece:
    """Outside of the loop only: rows and columns become fewer."""
    kind = d.rng.choice(["max_pool", "avg_pool", "strided"])
    d.sizes["y"] //= 2
    d.sizes["x"] //= 2
    call = f"conv(x, {d.sizes['c']}, stride = 2)" if kind == "strided" else f"{kind}(x)"
    return Piece(kind, (f"x = {call} as {d.scope('pool', kind == 'strided')}",))
