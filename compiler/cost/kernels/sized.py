"""Sizes of a body's kernels, once all readers of what they make are known."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, replace
from functools import partial

from compiler.cost.kernels.drafts import Draft, Lifted, masked_again
from compiler.cost.kernels.rows import BY_ROW, rows_touched
from compiler.cost.kernels.symbols import answer
from compiler.cost.kernels.work import Collective, Hosted, Part, Product, Vector
from compiler.cost.kernels.work import WorkNode as Kernel
from compiler.graph import Graph, Node
from compiler.memory.tiers import FIRST
from compiler.ops import comm, effects
from compiler.ops.contract import Contract
from compiler.ops.rows import WriteRows
from compiler.regions.marks import Regions
from compiler.regions.routing import ONE
from dsl.data import dataclass

Cores = Mapping[int, tuple[float, float]]
"""Kernels, by index -> the share of the scores that a mask leaves, and that on the device that has most (or 0)."""


@dataclass(frozen=True, slots=True)
class Sized:
    """Of a body that is lifted. sunk: names of values that nobody here reads; carries: how many a loop has; itemsize:
    of the compute type; axes: sizes of mesh axes. inside, core: what is found out about values: those that systems'
    kernels do not write to memory, and those that fused attention does not. scores: dims of what is widest in each."""

    body: Graph
    values: Mapping[str, Lifted]
    drafts: Sequence[Draft]
    sunk: Collection[str]
    carries: int
    itemsize: int
    axes: Mapping[str, int]
    regions: Regions
    inside: set[str]
    core: set[str]
    sizes: dict[str, int] = field(default_factory=dict)
    scores: set[frozenset[str]] = field(default_factory=set)

    def part(self, update: bool) -> Part:
        """The work of the body. update: it is the optimizer's, which keeps nothing for others."""
        readers = self._readers()
        cores = self._cores()
        for at in cores:
            self.scores.add(max((frozenset(v.type.names) for i in self.drafts[at].instrs for v in i.outputs), key=len))
        fed = {self.values[v.name].root for at in cores for i in self.drafts[at].instrs for v in i.inputs}
        order = [at for at in self._order() if self.drafts[at].instrs]
        place = {at: i for i, at in enumerate(order)}
        results = self.body.outputs
        beside = self._beside(cores, fed) if cores else {}
        again = self._again(cores)
        nodes = []
        for at in order:
            draft = self.drafts[at]
            work = draft.work
            if work is None:
                work = self._vector(at, draft, readers, at in cores)
                if draft.memory != FIRST:
                    work = Hosted(work.bytes, work.flops + self._products(draft), draft.memory)
            elif isinstance(work, Product):
                work = self._product(draft, work, cores, fed)
                work = replace(work, again=True) if at in again else work
            elif isinstance(work, Collective) and work.comm.pattern is comm.Pattern.DIRECT and draft.count == 1:
                of = self.regions.routing.get(draft.instrs[0], ONE)
                work = replace(work, copies=of.number, places=of.places)
            elif isinstance(work, Collective) and work.role == "activations" and at in beside:
                work = replace(work, beside=tuple(beside[at]))
            deps = tuple(sorted(place[d] for d in draft.deps))
            owners = {self.values[results[c].name].owner for c in draft.carries if c < len(results)}
            nodes.append(Kernel(draft.name, work, deps, tuple(sorted(place[o] for o in owners if o >= 0))))
        if not update:
            self._note_what_stays_inside(readers, cores, fed)
        return Part(tuple(nodes))

    def _beside(self, cores: Cores, fed: Collection[str]) -> dict[int, list[Product]]:
        """Messages of what products of attention read, or of what they make (of activations alone), with them."""
        found: dict[int, list[Product]] = {}
        for at, draft in enumerate(self.drafts):
            instr, work = draft.instrs[0], draft.work
            owners = {self.values[v.name].owner for v in instr.inputs} - {-1}
            if isinstance(work, Product):
                messages = [owner for owner in owners if isinstance(self.drafts[owner].work, Collective)]
                product = self._product(draft, work, cores, fed) if messages else work
                for owner in messages if product.core else ():
                    found.setdefault(owner, []).append(product)
            elif isinstance(work, Collective):
                for maker in [self.drafts[owner] for owner in owners]:
                    taints = [self.values[v.name].taint for v in maker.instrs[0].inputs]
                    if isinstance(maker.work, Product) and "weights" not in taints:
                        found.setdefault(at, []).append(self._product(maker, maker.work, cores, fed))
        return found

    def _cores(self) -> Cores:
        """Kernels of the inside of attention."""
        regions, found = self.regions.attention, dict[int, tuple[float, float]]()
        for at, draft in enumerate(self.drafts):
            mine = [regions[instr] for instr in draft.instrs if instr in regions] if draft.work is None else []
            if mine:
                found[at] = min((region.kept, region.most) for region in mine)
        return found

    def _note_what_stays_inside(self, readers: Mapping[str, set[int]], cores: Cores, fed: Collection[str]) -> None:
        """Values that systems' kernels do not write to memory: all readers are in the same one, or attention is one.

        fed: values that the inside of attention reads.
        Nor what is kept of a kernel's inside for its derivative: theirs begin again from its input (from the result, if
        it is a softmax). Where that is not kept itself, the largest inner value stands for it.
        """
        all_of: dict[str, set[int]] = {}  # readers of views are those of what they show
        for name, value in self.values.items():
            all_of.setdefault(value.root, set()).update(readers.get(name, ()))
        carried = {v.name for v in self.body.outputs[: self.carries]}
        for at, draft in enumerate(self.drafts):
            made = [v.name for instr in draft.instrs for v in instr.outputs]
            if at in cores or (isinstance(draft.work, Product) and draft.instrs[0].outputs[0].name in fed):
                self.core.update(made)
            if draft.work is not None:
                continue
            self.inside.update(n for n in made if not all_of.get(n, set()) - {at})
            kept = [n for n in made if -2 in all_of.get(n, ()) and not all_of[n] - {at, -2} and n not in carried]
            kept.sort(key=lambda n: -self.values[n].type.elements)
            if kept and (at in cores or not self._input_is_kept(draft, kept[0], made, all_of)):
                kept = kept[1:]
            self.inside.update(kept)

    def _input_is_kept(self, draft: Draft, like: str, made: list[str], readers: Mapping[str, set[int]]) -> bool:
        roots = {self.values[v.name].root for instr in draft.instrs for v in instr.inputs} - set(made)
        large = self.values[like].type.elements
        return any(-2 in readers.get(r, ()) and self.values[r].type.elements >= large for r in roots)

    def _order(self) -> list[int]:
        """Indices such that all come after what they wait for, otherwise as they stand."""
        order: list[int] = []
        seen: set[int] = set()
        for start in range(len(self.drafts)):
            stack = [start]
            while stack:
                at = stack[-1]
                missing = [d for d in self.drafts[at].deps if d not in seen] if at not in seen else []
                if missing:
                    assert len(stack) <= len(self.drafts) ** 2, "kernels wait for each other"
                    stack += sorted(missing, reverse=True)
                    continue
                stack.pop()
                if at not in seen:
                    seen.add(at)
                    order.append(at)
        return order

    def _readers(self) -> dict[str, set[int]]:
        """Nodes that read each value, by root; -2: it outlives the body."""
        readers: dict[str, set[int]] = {}
        values = self.values
        for at, draft in enumerate(self.drafts):
            for root in {values[v.name].root for instr in (*draft.instrs, *draft.others) for v in instr.inputs}:
                readers.setdefault(root, set()).add(at)
        for instr in self.body.nodes:
            if isinstance(instr.op, (effects.Save, effects.Accumulate, effects.Write)):
                readers.setdefault(self.values[instr.inputs[0].name].root, set()).add(-2)
        for v in self.body.outputs:
            readers.setdefault(self.values[v.name].root, set()).add(-2)
        return readers

    def _size(self, name: str) -> int:
        """Bytes that reading or writing it moves. Between kernels activations go in the compute type, as in the systems
        that this stands for; what the program keeps in f32 there (softmax, norms) stays inside kernels."""
        size = self.sizes.get(name)
        if size is None:
            value = self.values[name]
            root = self.values.get(value.root, value)
            narrow = value.bytes if value.code else value.elements * self.itemsize
            size = self.sizes[name] = min(value.bytes, root.bytes, narrow)
        return size

    def _vector(self, at: int, draft: Draft, readers: Mapping[str, set[int]], core: bool) -> Vector:
        made = {v.name for i in draft.instrs for v in i.outputs}
        read: dict[str, int] = {}
        loose = written = flops = 0
        again, only = masked_again(draft.instrs, self.values), {at}
        for instr in draft.instrs:
            if instr in again:
                continue
            rows = self._rows(instr)
            for v in instr.inputs:
                root, size = self.values[v.name].root, rows.get(v.name, self._size(v.name))
                loose += size
                if root not in made and size > read.get(root, -1):
                    read[root] = size
            for var in instr.outputs:
                size = rows.get(var.name, self._size(var.name))
                loose += size
                flops += self.values[instr.inputs[1].name if var.name in rows else var.name].elements
                if not readers.get(var.name, only) <= only:
                    written += size
        first = draft.instrs[0]
        dtype = self.values[first.outputs[0].name].type.dtype
        ops = len(draft.instrs) - len(again)
        return Vector(sum(read.values()) + written, loose, ops, flops, dtype, core)

    def _rows(self, instr: Node) -> dict[str, int]:
        """Bytes that move of a table where only rows of it are read, or are renewed in its memory."""
        if not instr.inputs:
            return {}
        table, out = instr.inputs[0].name, instr.outputs[0].name
        if isinstance(instr.op, BY_ROW):
            rows = answer(self.axes, partial(_rows_of, instr, self.body.nodes, self.itemsize))
            if not isinstance(instr.op, WriteRows):
                return {table: min(self._size(table), rows)}
            return {table: 0, out: rows} if self.values[out].state else {}
        if instr.op.renews == 0 and self.values[out].state:
            return {table: 0, out: self._size(instr.inputs[1].name)}
        return {}

    def _products(self, draft: Draft) -> float:
        """Operations of products that no matrix unit computes."""
        types = ([self.values[v.name].type for v in (*i.inputs, *i.outputs)] for i in draft.instrs if _contracts(i))
        return sum(work.flops for of in types if (work := Product.of(*of)) is not None)

    def _product(self, draft: Draft, work: Product, cores: Cores, fed: Collection[str]) -> Product:
        (instr,) = draft.instrs
        operands, out = [v.name for v in instr.inputs], instr.outputs[0].name
        total = sum(self._size(n) for n in (*operands, out))
        inside = [n for n in operands if self.values[n].owner in cores or self._is_kept(n)]
        if out in fed:
            inside.append(out)
        kept, most = min(cores.values(), default=(1.0, 0.0)) if inside else (1.0, 0.0)
        moved = total - sum(self._size(n) for n in inside)
        weights = any(self.values[n].taint == "weights" for n in operands) or out in self.sunk
        groups = work.batch if weights else 1
        return Product(work.m, work.n, work.k, work.batch, work.dtype, total, bool(inside), moved, kept, most, groups)

    def _again(self, cores: Cores) -> set[int]:
        """Of each attention that reads what was kept of its inside, the largest product that takes what it makes."""
        kept = {at for at in cores for i in self.drafts[at].instrs if any(self._is_kept(v.name) for v in i.inputs)}
        largest: dict[int, tuple[float, int]] = {}  # by region
        for at, draft in enumerate(self.drafts) if kept else ():
            if isinstance(draft.work, Product):
                for owner in {self.values[v.name].owner for v in draft.instrs[0].inputs} & kept:
                    region = next(id(r) for i in self.drafts[owner].instrs if (r := self.regions.attention.get(i)))
                    largest[region] = max(largest.get(region, (0.0, -1)), (draft.work.flops, at))
        return {at for _, at in largest.values()}

    def _is_kept(self, name: str) -> bool:
        """Whether it is given to the body, with the dims of scores: what the pass forward kept of an attention's inside
        where the program does not make it again; fused kernels do."""
        value = self.values[name]
        return value.owner < 0 and not value.taint and frozenset(value.type.names) in self.scores


def _rows_of(instr: Node, nodes: Sequence[Node], itemsize: int, sizes: Mapping[str, int]) -> int:
    return rows_touched(instr, nodes, sizes, itemsize)


def _contracts(instr: Node) -> bool:
    return isinstance(instr.op, Contract)
