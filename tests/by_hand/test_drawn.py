"""Drawn implementations: chains of layers with right messages drawn between them are accepted and proved.

Without one of the messages they are refused, or, as nothing is claimed, compute the same all the same.
"""

from __future__ import annotations

from random import Random

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.implement.alone import alone
from compiler.model import Job, Precision
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove
from runtime.prove.alone import differences
from runtime.rank.executor import RankExecutor

AXES = ("p", "q")
SIZES = {"b": 8, "s": 4}


class Drawn:
    """A function as a model has it, and as it is by hand: lines of both, of which some of the latter are messages.

    dims: of the value so far, with the axes that it is split over, major first. pending: axes over which it is a sum.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.sizes = {**SIZES, "f0": 8}
        self.dims: dict[str, list[str]] = {"b": [], "s": [], "f0": []}
        self.pending: list[str] = []
        self.model: list[str] = []
        self.hand: list[tuple[str, bool]] = []  # a line, and whether it is a message
        self.count = 0
        for dim in ("b", "s", "f0"):
            if rng.random() < 0.3 and self.free():
                self.dims[dim].append(rng.choice(self.free()))
        self.enters = self.typed("x")
        for _ in range(rng.randint(3, 8)):
            rng.choice([self.linear, self.bias, self.bend, self.scale, self.message, self.message, self.norm])()
        self.settle()
        self.bias()

    @property
    def width(self) -> str:
        """The dim of features."""
        return [*self.dims][-1]

    def free(self) -> list[str]:
        """Axes along which all devices have the same."""
        used = {a for axes in self.dims.values() for a in axes}
        return [a for a in AXES if a not in used and a not in self.pending]

    def typed(self, name: str) -> str:
        """A tensor of the value's dims, in its pieces."""
        return f"{name}[{', '.join('/'.join((d, *axes)) for d, axes in self.dims.items())}]"

    def plain(self, name: str) -> str:
        return f"{name}[{', '.join(self.dims)}]"

    def both(self, line: str) -> None:
        """A line that is the same in both."""
        self.model.append(line)
        self.hand.append((line, False))

    # --- layers ---------------------------------------------------------------------------------------------

    def linear(self) -> None:
        """A product with a weight, whose new dim may be split; one that is summed in pieces leaves a sum."""
        self.settle()
        self.count += 1
        old, new = self.width, f"f{self.count}"
        self.sizes[new] = self.rng.choice((4, 8))
        axes = self.dims.pop(old)
        split = [self.rng.choice(self.free())] if self.free() and self.rng.random() < 0.5 else []
        split = [a for a in split if a not in axes]
        self.model.append(f"weight w{self.count}[{old}, {new}] ~ normal(0.5)")
        self.hand.append((f"weight w{self.count}[{'/'.join((old, *axes))}, {'/'.join((new, *split))}]", False))
        self.dims[new] = split
        self.both(f"{self.plain('x')} = x @ w{self.count}")
        self.pending += axes

    def bias(self) -> None:
        self.settle()
        self.count += 1
        dim = self.width
        self.model.append(f"weight c{self.count}[{dim}] ~ normal(0.5)")
        self.hand.append((f"weight c{self.count}[{'/'.join((dim, *self.dims[dim]))}]", False))
        self.both(f"x = x + c{self.count}")

    def bend(self) -> None:
        self.settle()
        self.both(f"x = {self.rng.choice(('tanh', 'sigmoid', 'sin'))}(x)")

    def scale(self) -> None:
        """Parts of a sum can be scaled, too."""
        self.both("x = 0.5 * x")

    def norm(self) -> None:
        """A sum over features, which in pieces is one over devices."""
        self.settle()
        dim = self.width
        self.both(f"m = sum(x * x, over {dim})")
        for a in self.dims[dim]:
            self.hand.append((f"m = all_reduce(m, {a})", True))
        self.both("x = x / (1.0 + m)")

    # --- messages -------------------------------------------------------------------------------------------

    def message(self) -> None:
        """A change of the pieces."""
        rng, split = self.rng, [d for d, axes in self.dims.items() if axes]
        if self.pending:
            self.settle()
        elif split and rng.random() < 0.7:
            dim = rng.choice(split)
            axis = self.dims[dim].pop()
            into = rng.choice([d for d in self.dims if d != dim])
            if rng.random() < 0.5 and self.divides(into):
                self.hand.append((f"x = all_to_all(x, {axis}, over {dim} -> {into})", True))
                self.dims[into].append(axis)
            else:
                self.hand.append((f"x = all_gather(x, {axis}, over {dim})", True))
        elif self.free():
            axis, dim = rng.choice(self.free()), rng.choice([*self.dims])
            if self.divides(dim):
                self.hand.append((f"x = shard(x, {axis}, over {dim})", True))
                self.dims[dim].append(axis)

    def divides(self, dim: str) -> bool:
        return self.sizes[dim] % 2 ** (len(self.dims[dim]) + 1) == 0

    def settle(self) -> None:
        """Take all sums."""
        while self.pending:
            axis = self.pending.pop(self.rng.randrange(len(self.pending)))
            dim = self.rng.choice([*self.dims])
            if self.rng.random() < 0.5 and self.divides(dim):
                self.hand.append((f"x = reduce_scatter(x, {axis}, over {dim})", True))
                self.dims[dim].append(axis)
            else:
                self.hand.append((f"x = all_reduce(x, {axis})", True))

    # --- files ----------------------------------------------------------------------------------------------

    def text(self, without: int | None = None) -> str:
        """The file; without: a message that is left out."""
        messages = [i for i, (_, told) in enumerate(self.hand) if told]
        gone = None if without is None else messages[without]
        model = "".join(f"  {line}\n" for line in self.model)
        hand = "".join(f"  {line}\n" for i, (line, _) in enumerate(self.hand) if i != gone)
        dims = ", ".join(f"{d} = {n}" for d, n in self.sizes.items() if d not in SIZES and d != "f0")
        declared = f"  dim {dims}\n" if dims else ""
        split = self.rng.choice(("", "split b on p\n  ", "split s, b on q for activations\n  "))
        return (
            f"use std.optimizers (sgd)\n\nfn layers(x[b, s, f0]) {{\n{declared}{model}  return x\n}}\n\n"
            f"fn by_hand({self.enters}, p, q) {{\n{hand}  return x\n}}\n\n"
            "model net() {\n  dim b = 8, s = 4, f0 = 8\n  input x : f32[b, s, f0]\n  weight w[s, f0] ~ normal(1.0)\n"
            "  y = layers(x * w)\n  loss mean(y * y * y + y)\n}\n\nstrategy plan for net {\n  mesh (p = 2, q = 2)\n"
            f"  {split}implement layers by by_hand(p, q)\n}}\n\njob fit {{\n  train net() using plan\n"
            "  optimizer sgd(lr = 0.1)\n}\n"
        )

    @property
    def messages(self) -> int:
        return sum(told for _, told in self.hand)


def job(text: str) -> Job:
    return evaluate_file(Source("drawn.par", text), precision=Precision("f64", "f64")).job


@pytest.mark.parametrize("seed", range(24))
def test_drawn_implementations_are_proved(seed: int) -> None:
    drawn = Drawn(Random(seed))
    found = job(drawn.text())
    assert all(not differences(a) for a in alone(found))
    compiled = compile_job(found)
    assert not verify(compiled.program)
    assert prove(compiled.training, compiled.program, 1, executor=RankExecutor if seed % 4 == 0 else None).ok


@pytest.mark.parametrize("seed", range(40))
def test_what_types_accept_without_a_claim_is_right(seed: int) -> None:
    """Whatever message is left out."""
    drawn = Drawn(Random(seed))
    for i in range(drawn.messages):
        text = drawn.text(i)
        try:
            found = job(text)
        except ParcError:
            continue
        assert all(not differences(a) for a in alone(found)), text
