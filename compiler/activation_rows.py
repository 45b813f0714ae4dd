"""How products with weights in 8 bits take their inputs (`store activations as int8`): rounded or not, in which pieces
of a row, layer by layer where rules name some layers of a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.graph import Dim
from compiler.loop_pieces import LoopPiece
from compiler.model import Model
from compiler.origin import within
from compiler.strategy import ImplementRule, MeshAxis, StoreRule
from compiler.weight_format import WORDS, PackedWeight
from dsl.data import dataclass

CODE = "int8"

Pieces = Mapping[str, Mapping[str, tuple[Dim, ...]]]
"""Of weights, by the name of their words: the inputs of which each device has a piece by hand, with the dims of the
devices, major first."""


@dataclass(frozen=True, slots=True)
class LayerRows:
    """How products with a stored weight take their inputs, in all layers or in those of a piece of a loop: as they are
    (rule: None), or rounded, each piece of a row by itself (`pieces`: of which inputs each device has some by hand)."""

    piece: LoopPiece | None
    rule: StoreRule | None
    pieces: Mapping[str, tuple[Dim, ...]]

    def alike(self, other: LayerRows) -> bool:
        """Whether both take them in the same way."""
        return (self.rule is None) == (other.rule is None) and self.pieces == other.pieces


def rows_of_layers(
    model: Model, rules: Sequence[StoreRule], by_hand: Sequence[ImplementRule], mesh: Sequence[MeshAxis]
) -> dict[str, tuple[LayerRows, ...]]:
    """By the name of a stored weight's words, where no loop is cut, how its products take their inputs: layer by layer
    where they differ in it. model: in which the rules name scopes."""
    pieces, found = pieces_by_hand(by_hand, mesh), dict[str, list[LayerRows]]()
    for of in model.stored:
        words, rule = of.parts[WORDS], rule_of(of, rules)
        piece = next((p for p in model.pieces if within(words, p.path)), None)
        own = LayerRows(piece, rule, pieces.get(words, {}) if rule else {})
        found.setdefault(model.whole(words), []).append(own)
    return {name: _joined(layers) for name, layers in found.items()}


def _joined(layers: Sequence[LayerRows]) -> tuple[LayerRows, ...]:
    """In order of the layers; one for all of them where they are alike."""
    if all(one.alike(layers[0]) for one in layers):
        return (LayerRows(None, layers[0].rule, layers[0].pieces),)
    return tuple(sorted(layers, key=lambda one: one.piece.first if one.piece else 0))


def rule_of(of: PackedWeight, rules: Sequence[StoreRule]) -> StoreRule | None:
    """The last rule that speaks of the weight, if its products can take integers."""
    found = [r for r in rules if r.scope is None or within(of.name, r.scope)]
    return found[-1] if found and of.format.code == CODE else None


def pieces_by_hand(by_hand: Sequence[ImplementRule], mesh: Sequence[MeshAxis]) -> Pieces:
    """Of weights of which devices have pieces by hand: of each of these a row of inputs is rounded by itself."""
    sizes = {a.name: a.size for a in mesh}
    found: dict[str, dict[str, tuple[Dim, ...]]] = {}
    for rule in by_hand:
        names = dict(rule.axes)
        for weight, dims in rule.weights:
            cut = {d: tuple(Dim(names[a], sizes[a]) for a in axes if sizes[a] > 1) for d, axes in dims}
            if any(cut.values()):
                found[weight] = {d: devices for d, devices in cut.items() if devices}
    return found
