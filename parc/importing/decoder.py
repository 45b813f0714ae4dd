"""Models that are a row of layers of attention and a feed-forward part, with rotary positions: Llama and its kin.

A family says what it has (`Decoder`); here it is written, with loops over layers that are alike or come in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from fractions import Fraction
from math import lcm
from typing import Any

from dsl.data import dataclass
from parc.importing.described import Described, block, call, unless, written
from parc.importing.rolling import counted, rolled
from parc.importing.rotary import RotaryKind
from runtime.checkpoint_names import StoredTensor, rows

STD = 0.02


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One kind of layer. label: what loops over it are called; window: how many positions each sees (0: all before it);
    mixed: whether its feed-forward part is a mixture of experts."""

    label: str
    rotary: RotaryKind
    window: int = 0
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of experts: sizes, and options of the library's `moe`, but for the capacity."""

    experts: int
    active: int
    width: int
    options: Mapping[str, object]
    shared: int = 0
    balance: float = 0.0


@dataclass(frozen=True, slots=True)
class Latent:
    """Widths of latent attention: of the queries' latent (0: none), the keys' one, of a head what has no position, what
    has one, and values. sharper: by how much scores are larger than usual."""

    queries: int
    keys: int
    plain: int
    turned: int
    values: int
    sharper: float


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """size: of a head; width: of a feed-forward part that is no mixture of experts."""

    vocab: int
    hidden: int
    heads: int
    kv_heads: int
    size: int
    width: int


@dataclass(frozen=True, slots=True)
class Decoder:
    """What there is to say of such a model. attention: options of the library's `grouped_attention`; mlp: its function,
    with options; around: there are norms behind the parts of a layer, too; bound: of the logits.

    names: of a layer's tensors in checkpoints, of each kind, and of those that are no layer's.
    """

    sizes: DecoderSizes
    kinds: Sequence[LayerKind]
    positions: int
    eps: float
    tied: bool
    names: Callable[[LayerKind], Mapping[str, str]]
    outer: Mapping[str, str]
    prefix: str = "model.layers.{layer}."
    norm: str = "rms_norm"
    mlp: str = "swiglu"
    mlp_options: Mapping[str, object] = field(default_factory=dict)
    attention: Mapping[str, object] = field(default_factory=dict)
    around: bool = False
    std: float = STD
    embedded: str = ""
    bound: float = 0.0
    head_bias: bool = False
    drop: float = 0.0
    latent: Latent | None = None
    mixture: Mixture | None = None
    notes: tuple[str, ...] = ()


def described(of: Decoder) -> Described:
    """The model in the language."""
    return _Written(of).described()


class _Written:
    def __init__(self, of: Decoder) -> None:
        self.of = of
        self.std = unless(of.std, STD)
        self.params: dict[str, str] = {}
        self.functions: list[str] = []
        self.before: list[str] = []
        self.table: list[StoredTensor] = []
        self.runs = rolled(list(of.kinds))
        self.repeated = {k for run in self.runs for k in run.kinds if len(set(run.kinds)) > 1}
        self.bodies: dict[bool, tuple[str, list[str]]] = {}
        """Of a feed-forward part (mixed or not) whose layers are written as a function: its name and parameters."""
        self.spoken: dict[str, str] = {}
        """Expressions that have a name in the model: speeds."""
        self.mixtures: list[str] = []
        """How many mixtures of experts each loop has."""
        self.loops: list[str] = []
        """Labels of loops: each names a dim of the model."""

    # --- sizes --------------------------------------------------------------------------------------------

    def described(self) -> Described:
        of = self.of
        mixed, dense = any(k.mixed for k in of.kinds), any(not k.mixed for k in of.kinds)
        self._sizes(mixed, dense)
        loops, row = self._loops(mixed)
        keys = of.sizes.kv_heads or of.sizes.heads
        # Keys' heads are split, or the queries' of each: a power of two divides one of both, or not their multiple.
        divide = {"heads": lcm(keys, of.sizes.heads // keys), "vocab": of.sizes.vocab}
        if dense:
            divide["width"] = of.sizes.width
        if of.mixture is not None and mixed:
            divide["expert_width"] = of.mixture.width
            if of.mixture.shared:
                divide["shared"] = of.mixture.shared
        head = ["dim b = batch, s = seq, d = hidden, v = vocab", "input tokens, targets : int32[b,s] in 0..v"]
        for line in self.before:
            if line.startswith("dim"):
                head.append(line)
        body = [line for line in self.before if not line.startswith("dim")]
        return Described(
            params=self.params,
            head=tuple(head),
            body=(*self._embedded(), *body, *loops, *self._head(mixed)),
            row=row,
            divide=divide,
            table=(*rows(of.outer), *self.table),
            functions=tuple(self.functions),
            positions=of.positions,
            experts=of.mixture.experts if of.mixture and mixed else 0,
            notes=of.notes,
        )

    def _sizes(self, mixed: bool, dense: bool) -> None:
        of, p = self.of, self.params
        p["hidden"], p["vocab"] = written(of.sizes.hidden), written(of.sizes.vocab)
        p["heads"] = written(of.sizes.heads)
        if of.latent is None:
            p["kv_heads"] = written(of.sizes.kv_heads)
            if of.sizes.size * of.sizes.heads != of.sizes.hidden:
                p["head_size"] = written(of.sizes.size)
        else:
            at = of.latent
            p["query_latent"], p["latent"] = written(at.queries), written(at.keys)
            p["plain"], p["turned"], p["values"] = written(at.plain), written(at.turned), written(at.values)
        if dense:
            p["width"] = written(of.sizes.width)
        if of.mixture is not None and mixed:
            p["experts"], p["active"] = written(of.mixture.experts), written(of.mixture.active)
            p["expert_width"] = written(of.mixture.width)
            if of.mixture.shared:
                p["shared"] = written(of.mixture.shared)
            p["capacity"] = "1.25"
            if of.mixture.balance:
                p["balance"] = written(of.mixture.balance)
        windows = {k.window for k in of.kinds if k.window}
        assert len(windows) <= 1, "layers with windows have the same"
        if windows:
            p["local_window"] = written(windows.pop())
        p["eps"] = written(of.eps)
        plain = {k.rotary.theta for k in of.kinds if k.rotary.plain}
        if len(plain) == 1 and all(k.rotary.plain for k in of.kinds):
            p["theta"] = written(plain.pop())
        if of.drop:
            p["drop"] = written(of.drop)

    # --- ends ---------------------------------------------------------------------------------------------

    def _embedded(self) -> list[str]:
        of = self.of
        if of.tied:
            lines = [f"weight table[v,d] ~ normal({written(of.std)})"]
            looked = "take(table, tokens, over v)"
        else:
            lines = []
            looked = call("embedding", "tokens", "over v", "over d", std=self.std)
        scaled = f"{of.embedded} * {looked}" if of.embedded else looked
        return [*lines, f"x[b,s,d] = {scaled}"]

    def _head(self, mixed: bool) -> list[str]:
        of = self.of
        normal = call(of.norm, "x", "eps", label="norm")
        if of.tied:
            lines = [f"logits[b,s,v] = {normal} @ table"]
        else:
            lines = ["logits = " + call("linear", normal, "over v", bias=of.head_bias, std=self.std, label="head")]
        if of.bound:
            lines.append(f"logits = soft_cap(logits, {written(of.bound)})")
        loss = "cross_entropy(logits, targets, over v)"
        if mixed and of.mixture is not None and of.mixture.balance:
            number = " + ".join(self.mixtures)
            loss += f" + balance * active / {number if len(self.mixtures) == 1 else f'({number})'} * total"
        return [*lines, *block("if not training", ["output logits"]), f"loss {loss}"]

    # --- layers -------------------------------------------------------------------------------------------

    def _loops(self, mixed: bool) -> tuple[list[str], tuple[str, ...]]:
        """The loops, and their labels."""
        lines = ["total = zeros(dtype = master)"] if self._balanced(mixed) else []
        labels: list[str] = []
        first = 0
        for run in self.runs:
            label = "block" if len(self.runs) == 1 or len(set(run.kinds)) > 1 else run.kinds[0].label
            label = _fresh(label, self.loops)
            labels.append(label)
            self.loops.append(label)
            count = "layers" if len(self.runs) == 1 and len(run.kinds) == 1 else f"{label}_layers"
            count = "blocks" if len(run.kinds) > 1 else count
            count = _fresh(count, self.params)
            self.params = {count: written(run.count), **self.params}
            if inside := sum(k.mixed for k in run.kinds):
                self.mixtures.append(count if inside == 1 else f"({inside} * {count})")
            lines += block(f"repeat {count} as {label}", self._period(run.kinds, label, first))
            first += run.count * len(run.kinds)
        return lines, tuple(labels)

    def _balanced(self, mixed: bool) -> bool:
        return mixed and self.of.mixture is not None and self.of.mixture.balance > 0

    def _period(self, kinds: tuple[LayerKind, ...], label: str, first: int) -> list[str]:
        """What stands in a loop over these layers; the first of which is the `first` of all."""
        if len(kinds) == 1 and kinds[0] not in self.repeated:
            self._named(kinds[0], f"{label}.", first, ((label, 1),))
            return self._layer(kinds[0], self._attended(kinds[0]), "")
        lines: list[str] = []
        names: list[str] = []
        at = first
        for kind, times in counted(kinds):
            name = _fresh(kind.label, names if times == 1 else self.loops) if len(kinds) > 1 else ""
            (names if times == 1 else self.loops).append(name)
            if len(kinds) == 1:
                self._named(kind, f"{label}.layer.", at, ((label, 1),))
                lines += self._called(kind, "layer")
            elif times == 1:
                self._named(kind, f"{label}.{name}.", at, ((label, len(kinds)),))
                lines += self._called(kind, name)
            else:
                self._named(kind, f"{label}.{name}.layer.", at, ((label, len(kinds)), (name, 1)))
                lines += block(f"repeat {times} as {name}", self._called(kind, "layer"))
            at += times
        return lines

    def _named(self, kind: LayerKind, scope: str, first: int, strides: tuple[tuple[str, int], ...]) -> None:
        self.table += rows(self.of.names(kind), self.of.prefix, scope, first, strides)

    def _called(self, kind: LayerKind, label: str) -> list[str]:
        """A layer as a call of a function, which is written the first time."""
        of = self.of
        alike = [k for k in dict.fromkeys(of.kinds) if k.mixed == kind.mixed and k in self.repeated]
        windows, turns = {k.window for k in alike}, {k.rotary for k in alike}
        spoken = len(turns) > 1 or not kind.rotary.plain
        parameters = [*(["window_size"] if len(windows) > 1 else []), *(["speeds"] if spoken else [])]
        name = "layer" if not (kind.mixed and any(not k.mixed for k in self.repeated)) else "expert_layer"
        same = name == label
        if len(turns) > 1 and len({(r.amplitude, r.mscale) for r in turns}) > 1:
            parameters.append("amplitude")
        if kind.mixed not in self.bodies:
            self.bodies[kind.mixed] = name, parameters
            inner = self._attended(kind, spoken)
            for p in parameters:
                inner["window" if p == "window_size" else p] = p
            body = [*self._layer(kind, inner, "busy"), "return x, busy" if self._busy(kind) else "return x"]
            shown = ", ".join(["x", *parameters])
            self.functions.append("\n".join(block(f"fn {name}({shown})", body)))
        attended = self._attended(kind, spoken)
        values = {
            "window_size": "local_window" if kind.window else 0,
            "speeds": attended.get("speeds"),
            "amplitude": kind.rotary.amplitude,
        }
        made = call(name, "x", label="" if same else label, **{p: values[p] for p in parameters})
        if self._busy(kind):
            return [f"x, busy = {made}", "total = total + busy"]
        return [f"x = {made}"]

    def _busy(self, kind: LayerKind) -> bool:
        return kind.mixed and self._balanced(True)

    def _speeds(self, rotary: RotaryKind) -> str:
        """The name of the speeds, which are computed before the loops."""
        text = rotary.speeds or call("rotary_speeds", "over half", rotary.theta)
        if text not in self.spoken:
            if not self.spoken:
                self.before.append(f"dim half = {self._pairs(rotary)}")
            several = len({k.rotary for k in self.of.kinds}) > 1
            label = next(k.label for k in self.of.kinds if k.rotary == rotary)
            name = _fresh(f"{label}_speeds" if several else "speeds", list(self.spoken.values()))
            self.spoken[text] = name
            self.functions = [*dict.fromkeys([*rotary.functions, *self.functions])]
            self.before.append(f"{name} = {text}")
        return self.spoken[text]

    def _pairs(self, rotary: RotaryKind) -> str:
        """How many pairs of a head turn, as it follows from the sizes."""
        if self.of.latent is not None:
            return "turned // 2"
        size = "head_size" if "head_size" in self.params else "hidden // heads"
        part = Fraction(rotary.turned, rotary.size)
        return f"{size} // 2" if part == 1 else f"{size} * {part.numerator} // {2 * part.denominator}"

    def _attended(self, kind: LayerKind, spoken: bool = False) -> dict[str, object]:
        """Options of a layer's attention."""
        rotary = kind.rotary
        options: dict[str, object] = {}
        if spoken or not rotary.plain:
            options["speeds"] = self._speeds(rotary)
            options["amplitude"] = unless(rotary.amplitude, 1.0)
        else:
            options["theta"] = "theta" if "theta" in self.params else rotary.theta
        options["window"] = "local_window" if kind.window else None
        return options

    def _layer(self, kind: LayerKind, attended: dict[str, object], busy: str) -> list[str]:
        """Statements that take `x` through a layer."""
        lines = self._part(self._attention(attended), "attention", "")
        if kind.mixed:
            return [*lines, *self._experts(busy)]
        of = self.of
        mlp = call(of.mlp, "INPUT", "width", std=self.std, **of.mlp_options, label="mlp")
        return [*lines, *self._part(mlp, "mlp", "")]

    def _part(self, made: str, name: str, before: str) -> list[str]:
        """`x` and what is made of its norm."""
        of = self.of
        made = made.replace("INPUT", call(of.norm, "x", "eps", label=f"{name}_norm"))
        if of.around:
            made = call(of.norm, made, "eps", label=f"{name}_after")
        if of.drop:
            made = call("dropout", made, "drop")
        line = f"x = x + {made}"
        return [line]

    def _attention(self, attended: dict[str, object]) -> str:
        of = self.of
        if of.latent is not None:
            at = of.latent
            sizes = ("heads", "query_latent", "latent", "plain", "turned", "values")
            scale = None if at.sharper == 1 else f"{at.sharper!r} / sqrt(plain + turned)"
            return call(
                "latent_attention", "INPUT", *sizes, **attended, eps=1e-6, scale=scale, std=self.std, **of.attention,
                label="attention",
            )  # fmt: skip
        size = "head_size" if "head_size" in self.params else None
        options = {"size": size, **attended, "std": self.std, **of.attention}
        return call("grouped_attention", "INPUT", "heads", "kv_heads", **options, label="attention")

    def _experts(self, busy: str) -> list[str]:
        of = self.of
        assert of.mixture is not None
        options: dict[str, Any] = {"active": "active", "capacity": "capacity", **of.mixture.options}
        if of.mixture.shared:
            options["shared"] = "shared"
        normal = call(of.norm, "x", "eps", label="moe_norm")
        made = call("moe", normal, "experts", "expert_width", std=self.std, **options)
        lines = [f"y, busy = {made}", "x = x + y"]
        if not busy and self._balanced(True):
            lines.append("total = total + busy")
        return lines


def _fresh(name: str, taken: Sequence[str] | Mapping[str, str]) -> str:
    """The name, or the first of those with a number behind it that is not taken."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found
