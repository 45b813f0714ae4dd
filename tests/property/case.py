"""One drawn job: its parts, from which its text is made, so that parts can be left out of it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.property.texts import functions


@dataclass(frozen=True, slots=True)
class Piece:
    """Lines that turn the running tensor `x` into another of the same dims; `kind` for counting."""

    kind: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A model (before, in and after a loop), a strategy, an optimizer. `seed`: what it was drawn from."""

    seed: int
    head: tuple[str, ...]  # dims, inputs, and the first `x`
    first: tuple[Piece, ...]  # in a loop `encoder`, of `first_count` iterations, if there are any
    first_count: int
    bridge: tuple[str, ...]  # behind it: another `x`
    before: tuple[Piece, ...]
    loop: tuple[Piece, ...]
    count: int  # of the loop; it has the label `block`
    after: tuple[Piece, ...]
    tail: Piece  # the loss
    mesh: tuple[tuple[str, int], ...]
    rules: tuple[Piece, ...]
    optimizer: str
    precision: str = "f64"
    frozen: tuple[Piece, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """All that the case is made of, for counting."""
        pieces = (*self.first, *self.before, *self.loop, *self.after, self.tail, *self.rules, *self.frozen)
        clip = ("clip",) if "clip" in self.optimizer else ()
        scale = ("loss_scale",) if "loss_scale" in self.precision else ()
        mixed = ("mixed",) if "master" in self.precision else ()
        kinds = (k for p in pieces for k in p.kind.split("+"))
        return (*kinds, self.optimizer.partition("(")[0], *clip, *scale, *mixed)

    @property
    def text(self) -> str:
        """The `.par` file."""
        by_hand = any(line.startswith("implement ") for rule in self.rules for line in rule.lines)
        lines = ["use std.implementations"] if by_hand else []
        lines += ["use std.layers", "use std.optimizers", "use std.tactics", ""]
        lines += [*functions(self.model), self.model, ""]
        if self.mesh:
            axes = ", ".join(f"{name} = {size}" for name, size in self.mesh)
            lines += ["strategy plan for drawn {", f"  mesh ({axes})"]
            lines += [f"  {line}" for rule in self.rules for line in rule.lines]
            lines += ["}", ""]
        using = " using plan" if self.mesh else ""
        lines += ["job fit {", f"  train drawn(){using}", f"  optimizer {self.optimizer}"]
        lines += [f"  {line}" for piece in self.frozen for line in piece.lines]
        lines += [f"  precision {self.precision}", f"  seed {self.seed % 1000}", "}", ""]
        return "\n".join(lines)

    @property
    def model(self) -> str:
        """The text of the model."""
        lines = ["model drawn() {", *(f"  {line}" for line in self.head)]
        lines += _loop("encoder", self.first_count, self.first)
        lines += [f"  {line}" for line in self.bridge]
        for piece in self.before:
            lines += [f"  {line}" for line in piece.lines]
        lines += _loop("block", self.count, self.loop)
        for piece in (*self.after, self.tail):
            lines += [f"  {line}" for line in piece.lines]
        return "\n".join([*lines, "}"])

    def smaller(self) -> Iterator[Case]:
        """Cases with one part less, the most promising first."""
        for name in ("rules", "frozen", "before", "after", "loop", "first"):
            pieces: tuple[Piece, ...] = getattr(self, name)
            for i in range(len(pieces)):
                yield replace(self, **{name: (*pieces[:i], *pieces[i + 1 :])})
        if not self.optimizer.startswith("sgd(lr = 0.002)"):
            yield replace(self, optimizer="sgd(lr = 0.002)")
        if self.count > 1:
            yield replace(self, count=1)
        if self.first_count > 1:
            yield replace(self, first_count=1)
        plain = "loss mean(x * x)"
        if self.tail.lines != (plain,):
            yield replace(self, tail=Piece("square", (plain,)))
        for i, (axis, size) in enumerate(self.mesh):
            if size > 2:
                yield replace(self, mesh=(*self.mesh[:i], (axis, 2), *self.mesh[i + 1 :]))
            if size > 1:
                yield replace(self, mesh=(*self.mesh[:i], (axis, 1), *self.mesh[i + 1 :]))


def _loop(label: str, count: int, pieces: tuple[Piece, ...]) -> list[str]:
    lines = [f"    {line}" for piece in pieces for line in piece.lines]
    return [f"  repeat {count} as {label} {{", *lines, "  }"] if pieces else []
