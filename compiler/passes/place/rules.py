"""A strategy's rules, asked by tensor: which dim an axis splits, and where weights and states are stored."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from math import prod
from operator import itemgetter
from typing import Any, Generic, TypeVar

from compiler.graph import Type, Value
from compiler.layout import TIME, Layout, nested
from compiler.model import Job
from compiler.origin import within
from compiler.passes.place.before import ChosenBefore
from compiler.passes.place.questions import Answer, Question, Questions, divides
from compiler.passes.place.standins import chosen, stand_in, with_samples
from compiler.strategy import LayoutRule, ShardRule, SplitRule, Strategy
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics


@dataclass(frozen=True, slots=True)
class Wish:
    """A dim that a rule names for an axis: `rank` is its place in the rules' order."""

    rank: int
    rule: SplitRule


Found = TypeVar("Found")


class ByScope(Generic[Found]):
    """Rules by their scopes: whoever asks for those of a path does not go through all of them."""

    def __init__(self, rules: Iterable[tuple[str | None, Found]]) -> None:
        self._of: dict[str | None, list[tuple[int, Found]]] = {}
        for i, (scope, rule) in enumerate(rules):
            self._of.setdefault(scope, []).append((i, rule))

    def around(self, path: str) -> list[tuple[int, Found]]:
        """Those whose scope the path is `within`, each with its place among all, in order."""
        if self._of.keys() <= {None}:
            return self._of.get(None, [])
        scopes = [None, path, *[path[:i] for i, c in enumerate(path) if c == "."]]
        found = [self._of[scope] for scope in scopes if scope in self._of]
        return sorted(chain(*found), key=itemgetter(0)) if len(found) > 1 else found[0] if found else []


class Rules:
    """The strategy, narrowed to the axes that can split tensors (not places, not of size 1)."""

    def __init__(self, job: Job, diagnostics: Diagnostics) -> None:
        strategy = job.strategy
        self.strategy: Strategy = strategy
        self.diagnostics = diagnostics
        places = place_axes(strategy)
        mesh = [a for a in strategy.mesh if a.name not in places and a.size > 1]
        self.axes: tuple[str, ...] = tuple(a.name for a in mesh)
        self.sizes: dict[str, int] = {a.name: a.size for a in mesh}
        self._model = job.model
        splits = chosen([r for r in strategy.splits if r.axis in self.sizes], self.sizes, job.model)
        first = next((i.value.type.names[0] for i in job.model.inputs if i.value.type.dims), "")
        dim = strategy.microbatch_dim or first
        splits = with_samples(splits, dim, strategy.microbatches, job.model)
        if strategy.microbatches > 1:
            self.axes = (TIME, *self.axes)
            self.sizes = {TIME: strategy.microbatches, **self.sizes}
            pad, span = strategy.microbatch_pad, strategy.microbatch_span
            splits.append(SplitRule((dim,), TIME, ("activations",), pad=pad, span=span))
        self.device_dims = {dim: a for r in strategy.implementations for a, dim in r.axes if a in self.sizes}
        self._by_hand = ByScope([(r.scope, frozenset(a for a, _ in r.axes)) for r in strategy.implementations])
        self._in_pieces = {path: dict(dims) for r in strategy.implementations for path, dims in r.weights}
        self.splits = {a: tuple(r for r in splits if r.axis == a) for a in self.axes}
        self._by_scope = {a: ByScope([(r.scope, r) for r in of]) for a, of in self.splits.items()}
        self._layouts: dict[str, LayoutRule] = {r.tensor: r for r in strategy.layouts}
        self._wishes: dict[tuple[str, str, str], dict[str, Wish]] = {}
        self._all_wishes: dict[tuple[str, str], dict[str, dict[str, Wish]]] = {}
        self._alike: dict[tuple[object, ...], dict[str, dict[str, Wish]]] = {}
        self._declared: dict[tuple[object, Type, str, tuple[str, ...]], tuple[Layout, Questions]] = {}
        self._said: dict[int, int] = {}
        self.before: ChosenBefore | None = None  # who keeps what is asked of the sizes of axes
        self.questions: Questions | None = None  # what was asked of them, if that is to be kept
        self._answers: Questions = {}
        self.reported: set[tuple[str, str]] = set()  # dims and axes, by `indivisible`
        self.asked: set[str] = set()  # tensors whose stated layout somebody heeded
        self.sums: set[tuple[str, str]] = set()  # weights with axes over which their gradients can wait to be summed

    def by_hand(self, path: str, cls: str) -> frozenset[str]:
        """The axes along which what is at the path is written by hand; updates never are."""
        if cls == "optimizer":
            return frozenset()
        return next((axes for _, axes in self._by_hand.around(path)), frozenset())

    def crossing(self, value: Value) -> Mapping[str, str]:
        """By axis the dim of which its devices have pieces, of a value between a whole and pieces by hand."""
        of = self._model.crossing.get(value.origin.of or value.name, ())
        return {a: dim for dim, axes in of for a in axes if a in self.sizes}

    def wishes(self, axis: str, path: str, cls: str) -> dict[str, Wish]:
        """Dims that the rules of `axis` list for the tensor at `path` of class `cls`, first wish first."""
        known = self._wishes.get((axis, path, cls))
        if known is None:
            known = {}
            for _, rule in self._by_scope[axis].around(path) if axis not in self.by_hand(path, cls) else ():
                for dim in rule.dims if cls in rule.classes else ():
                    known.setdefault(dim, Wish(len(known), rule))
            self._wishes[axis, path, cls] = known
        return known

    def all_wishes(self, path: str, cls: str) -> dict[str, dict[str, Wish]]:
        """By axis. Where the same rules apply it is the same object."""
        known = self._all_wishes.get((path, cls))
        if known is None:
            apply = [[i for i, r in of.around(path) if cls in r.classes] for of in self._by_scope.values()]
            key = (self.by_hand(path, cls), *map(tuple, apply))
            if key not in self._alike:
                self._alike[key] = {axis: self.wishes(axis, path, cls) for axis in self.axes}
            known = self._all_wishes[path, cls] = self._alike[key]
        return known

    def said(self, wishes: dict[str, dict[str, Wish]], before: ChosenBefore) -> int:
        """What choices hang on of wishes, as a number. wishes: from `all_wishes`, which keeps them."""
        known = self._said.get(id(wishes))
        if known is None:
            text = [(a, tuple([(d, w.rank, w.rule.pad) for d, w in of.items()])) for a, of in wishes.items()]
            known = self._said[id(wishes)] = before.number(tuple(text))
        return known

    def override(self, name: str, type: Type, cls: str) -> Layout | None:
        """The layout that `layout NAME[…]` states: loop dims (not written) whole, the batch also cut in time."""
        rule = self._layouts.get(name)
        if rule is None:
            return None
        self.asked.add(name)
        stated = dict(rule.dims)
        timed = self.wishes(TIME, name, cls) if TIME in self.sizes else {}
        dims: list[tuple[str, ...]] = []
        for d in type.dims:
            axes: tuple[str, ...] = (TIME,) if d.name in timed else ()
            wanted = [a for a in stated.get(d.name, ()) if a in self.sizes]
            for i, a in enumerate(wanted):
                if self.fits(d.size, axes, a):
                    axes = (*axes, a)
                else:
                    self.indivisible(d.name, d.size, (*axes, a), rule, name, wanted[i + 1 :])
            dims.append(axes)
        return Layout(tuple(dims))

    def declared(self, name: str, type: Type, cls: str, loops: Sequence[str] = (), path: str | None = None) -> Layout:
        """The layout that the rules give a tensor: per axis, the first listed dim that it has. path: if not `name`."""
        path = name if path is None else path
        stated = self.override(name, type, cls)
        if stated is not None:
            return stated
        # Where the same rules apply it is the same, but for weights that are written by hand in pieces.
        same: object = path if self._in_pieces and cls == "weights" else id(self.all_wishes(path, cls))
        key = (same, type, cls, tuple(loops))
        if (known := self._declared.get(key)) is not None:
            if self.questions is not None:
                self.questions.update(known[1])
            return known[0]
        before, own = self.questions, Questions()
        if before is not None:
            self.questions = own
        dims: list[tuple[str, ...]] = [()] * len(type.dims)
        fine = True
        written = self._in_pieces.get(name, {}) if cls == "weights" else {}
        for dim, axes in written.items():
            if type.has(dim):  # scales of what is stored in fewer bits may be without
                dims[type.index(dim)] = tuple(a for a in axes if a in self.sizes)
        for i, d in enumerate(type.dims):
            if d.name in self.device_dims:
                dims[i] = (self.device_dims[d.name],)
        given = {a for axes in dims for a in axes}
        for at, axis in enumerate(self.axes):
            for dim, wish in self.wishes(axis, path, cls).items() if axis not in given else ():
                if type.has(dim) and dim not in loops:
                    i = type.index(dim)
                    if wish.rule.pad or self.fits(type.size(dim), dims[i], axis):
                        dims[i] = (*dims[i], axis)
                    else:
                        fine = False
                        there = [d for d in type.names if d not in loops]
                        first = {a: next((d for d in self.wishes(a, path, cls) if d in there), "") for a in self.axes}
                        later = [a for a in self.axes[at + 1 :] if first[a] == dim]
                        self.indivisible(dim, type.size(dim), (*dims[i], axis), wish.rule, name, later)
                    break
        found = Layout(tuple(dims))
        if before is not None:
            before.update(own)
            self.questions = before
        if fine:
            self._declared[key] = found, own
        return found

    def storage(self, name: str, type: Type, compute: Layout, cls: str, loops: Sequence[str] = ()) -> Layout:
        """The compute layout, split further by the `shard` rules of the class."""
        layout = compute
        for rule in self.strategy.shards:
            if rule.axis not in self.sizes or cls not in rule.classes or not within(name, rule.scope):
                continue
            if rule.axis in layout.axes:
                continue
            i = self._shardable(type, layout, rule, loops)
            if i is not None:
                dims = list(layout.dims)
                dims[i] = (*dims[i], rule.axis)
                layout = Layout(tuple(dims))
        return layout

    def _shardable(self, type: Type, layout: Layout, rule: ShardRule, loops: Sequence[str]) -> int | None:
        """The first dim of which a device's part divides; failing that, if the rule says `pad`, the first whole one."""
        own = [i for i, d in enumerate(type.dims) if d.name not in loops]
        for i in own:
            if self.fits(type.dims[i].size, layout.dims[i], rule.axis):
                return i
        parts = {i: nested(type.dims[i].size, (self.sizes[a] for a in layout.dims[i]))[-1] for i in own}
        enough = [i for i in own if parts[i] >= self.sizes[rule.axis]]
        if rule.pad:
            self.questions = None
        return min(enough, key=lambda i: (bool(layout.dims[i]), i), default=None) if rule.pad else None

    def waits(self, weight: str, axis: str) -> bool:
        """Whether the sum of the weight's gradient over the axis, which does not split it, waits for the update."""
        self.sums.add((weight, axis))
        rules = (r for r in self.strategy.reductions if r.axis == axis and within(weight, r.scope))
        return next((r.per for r in rules), "step") == "step"

    def fits(self, size: int, axes: Sequence[str], axis: str) -> bool:
        """True if `axis` divides a device's piece of a dim of `size` that `axes` split already."""
        return self.ask(divides, size, tuple(axes), axis)

    def ask(self, question: Callable[..., Answer], *of: Hashable) -> Answer:
        """What the sizes of axes decide: nothing else that is placed hangs on them."""
        if self.questions is None or self.before is None:
            return question(self.sizes, *of)
        asked = self.before.question(question, of)
        found: Answer = self.answer(asked)
        self.questions[asked] = found
        return found

    def answer(self, question: Question) -> Any:
        """The same, for who keeps what was asked by himself."""
        found = self._answers.get(question)
        if found is None:
            found = self._answers[question] = question.answer(self.sizes)
        return found

    def indivisible(
        self,
        dim: str,
        size: int,
        axes: Sequence[str],
        rule: SplitRule | LayoutRule,
        name: str,
        later: Sequence[str] = (),
    ) -> None:
        """Report once per dim and axis that the size cannot be split. later: axes that are to split it besides."""
        axis = axes[-1]
        if (dim, axis) in self.reported or (dim in self.device_dims and self.reported):
            return  # devices by hand are in no dim that anybody wrote: what is wrong with theirs comes of another
        self.reported.add((dim, axis))
        n = prod(self.sizes[a] for a in axes)
        piece, others = nested(size, (self.sizes[a] for a in axes[:-1]))[-1], prod(self.sizes[a] for a in later)
        others = others if piece % others == 0 else 1  # if not, theirs is another error
        legal = [k for k in range(1, min(piece, 4096) + 1) if piece % (k * others) == 0]
        degrees = ", ".join(map(str, legal[:12])) + (", …" if len(legal) > 12 else "")
        over = f"{' × '.join(axes)} = {n} pieces" if len(axes) > 1 else f"{n} pieces"
        if axis == TIME:
            message = f"dim {dim} of {name} has size {size}, which does not split into {over} (micro-batches)"
            help = f"legal numbers of micro-batches here: {degrees}"
            if isinstance(rule, SplitRule) and not rule.pad:
                help += "; or let the last be smaller, with `pad`"
            self.diagnostics.error("E0501", message, rule.span, help=help)
            return
        help = f"legal degrees of {axis}: {degrees}; " if legal else ""
        if not isinstance(rule, LayoutRule) and rule.pad:
            help += "pieces of what is merged or split into dims are even"
        elif isinstance(rule, LayoutRule):
            here = [a for a in axes if not any(dim in r.dims and within(name, r.scope) for r in self.splits[a])]
            rules = ", ".join(f"`split {dim} on {a} in {name} pad`" for a in here or [axis])
            help += f"or allow uneven pieces with a rule in the place of this: {rules}"
        else:
            named = dim if dim in rule.dims else ", ".join(rule.dims)  # its size may come from another dim
            other = stand_in(dim, n, self._model) if dim in rule.dims else None
            if other is not None:  # behind it, it takes its place; before it, where it stands, it did not
                rest = [d for d in rule.dims if d != other]
                listed = ", ".join(d if d != dim else f"{d}, {other}" for d in rest)
                help += f"or split `{other}` in its place: `split {listed} on {axis}`; "
            if n <= size:  # else some devices have no part of it
                help += f"or allow uneven pieces: `split {named} on {axis} pad`"
            help = help.removesuffix("; ")
        message = f"dim {dim} of {name} has size {size}, which does not split into {over} on axis {axis}"
        self.diagnostics.error("E0540", message, rule.span, help=help)


def place_axes(strategy: Strategy) -> tuple[str, ...]:
    """Mesh axes (in mesh order) whose coordinate is a place rather than a split."""
    used = {p.axis for p in strategy.pipelines} | {p.axis for p in strategy.places}
    return tuple(a.name for a in strategy.mesh if a.name in used)
