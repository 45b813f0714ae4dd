"""What is known of a model while it is drawn, and what strategies may say of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random


@dataclass
class Drawing:
    """What is known of the model while it is drawn. `sizes`: dims of the running tensor `x`, in order."""

    rng: Random
    sizes: dict[str, int] = field(default_factory=dict)
    splittable: dict[str, int] = field(default_factory=dict)  # all dims that rules may speak of
    weights: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)  # path, dims (for `layout`)
    scopes: list[str] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)  # those of them that have weights
    declared: dict[str, int] = field(default_factory=dict)  # dims of raw pieces, by name (in the loop: `block.f`)
    spoken: list[tuple[str, str, int]] = field(default_factory=list)  # dims, where they are (paths), their sizes
    data: bool = False  # whether there is an input `data` of the dims of `x`
    number: int = 0
    inside: str = ""  # the loop that the piece stands in

    def name(self, stem: str) -> str:
        """A new name."""
        self.number += 1
        return f"{stem}{self.number}"

    def dim(self, name: str, size: int, label: str = "") -> None:
        """A dim that rules may speak of: of the scope with this label, or of what stands there by itself."""
        self.splittable.setdefault(name, size)
        self.spoken.append((name, self.path(label) if label else self.inside, size))

    def path(self, name: str) -> str:
        return f"{self.inside}.{name}" if self.inside else name

    def scope(self, stem: str, weights: bool = True) -> str:
        """A new label of a call; weights: whether there are some in it."""
        label = self.name(stem)
        self.scopes.append(self.path(label))
        if weights:
            self.holders.append(self.path(label))
        return label

    def weight(self, dims: tuple[str, ...]) -> str:
        """A new weight's name."""
        name = self.name("w")
        self.weights.append((self.path(name), dims))
        return name

    def known(self) -> tuple[int, ...]:
        """How much rules may speak of: it grows with the model."""
        return tuple(map(len, (self.splittable, self.weights, self.scopes, self.holders, self.declared)))

    @property
    def dims(self) -> str:
        return ",".join(self.sizes)
