"""Files under other names, and whether two results are the same but for names.

What a file defines gets other names: models, functions, labels, dims, axes, tensors, metrics, jobs. What the standard
library and the language define keeps its own, so a name that is one of theirs as well (a dim of which a tactic
speaks) stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import dsl
from compiler.cost.price.kinds import Over
from compiler.evaluate.builtins import BUILTINS
from compiler.graph import DTYPES, FLOATS
from compiler.ops.call import Call
from dsl import ast
from dsl.diagnostics import ParcError
from dsl.parser import parse
from dsl.printer import print_tree

WORDS = (
    "again", "grad", "graded", "mb", "stages", "saved", "hbm", "total", "kept", "loss", "step", "moved", "forward",
    "gradient", "update", "updates", "piece", "chunk", "part", "via", "whole", "reduced", "slice", "batch", "index",
    "next", "new", "sum_1", "add_1", "again_1", "grad_1", "x_1", "zz", "aa", "_", "mean_1", "unscale", "clip",
    "counter", "statistic", "report", "metric", "weight", "input", "state", "dim", "optimizer", "activations",
    "weights", "gradients", "loss_scale", "good_steps", "grad_norm", "time", "place", "mesh", "program", "fn",
    "with", "each", "yield", "reverse", "true_", "inf", "nan", "none", "U", "F", "B", "W", "g", "e", "i", "host",
    "schedule", "split", "shard", "layout", "pad", "keep", "recompute", "pending", "halo", "frozen", "chunk_1",
    "compute", "comm", "copy", "slower", "all_reduce", "product", "vector", "main", "serial", "repeat", "block",
    "scan", "move", "shift",
)  # fmt: skip
"""Names that the compiler uses itself, words of the language and of the lowered text, and others."""

KEPT = frozenset((*BUILTINS, *DTYPES, "compute", "master", "w", "g", "step", "loss", "microbatches", "over"))
"""Names that mean something of themselves."""


def _walk(node: object) -> Iterator[ast.Syntax]:
    if isinstance(node, ast.Syntax):
        yield node
        for f in fields(node):
            yield from _walk(getattr(node, f.name))
    elif isinstance(node, tuple):
        for x in node:
            yield from _walk(x)


def _std() -> tuple[frozenset[str], frozenset[str]]:
    """What the library defines; and the dims that its functions make or its tactics speak of."""
    defined: set[str] = set()
    dims: set[str] = set()
    for path in sorted((Path(dsl.__path__[0]) / "std").glob("*.par")):
        for item in parse(path.read_text(encoding="utf-8"), path.name).items:
            if isinstance(item, ast.Definition):
                defined.add(item.name.id)
            own = {p.target.name.id for p in item.parameters} if isinstance(item, ast.Tactic) else set()
            given = {d.id for p in getattr(item, "parameters", ()) for d in p.target.dims or ()}
            for node in _walk(item):
                if isinstance(node, ast.Split):
                    dims |= {d.id for d in node.dims} - own
                elif isinstance(node, ast.DimDecl):
                    dims |= {name.id for name, _ in node.dims}
                elif isinstance(node, (ast.Arrow, ast.Over)):
                    dims |= {n.id for n in node.after} - given
    return frozenset(defined), frozenset(dims)


STD, STD_DIMS = _std()


def renamable(tree: ast.File) -> list[str]:
    """Names that the file defines, in the order in which they stand there."""
    found: dict[str, None] = {}

    def add(*names: ast.Name) -> None:
        found.update(dict.fromkeys(n.id for n in names))

    for node in _walk(tree):
        match node:
            case ast.Definition() | ast.Param() | ast.Metric() | ast.DeviceUse() | ast.Level():
                add(node.name)
            case ast.Target():
                add(node.name, *(node.dims or ()))
            case ast.DimDecl():
                add(*(name for name, _ in node.dims))
            case ast.InputDecl() | ast.StateDecl():
                add(*node.names)
            case ast.Repeat():
                add(node.label)
            case ast.Call() if node.label is not None:
                add(node.label)
            case ast.Mesh():
                add(*(name for name, _ in node.axes))
            case ast.Arrow() | ast.Over():
                add(*node.after)
            case _:
                pass
    return [n for n in found if n not in KEPT | STD | STD_DIMS]


@dataclass
class _Renamer:
    """names: old -> new; functions: those of the file; library: labels and functions whose insides keep their names."""

    names: Mapping[str, str]
    functions: frozenset[str]
    library: frozenset[str]
    axes: frozenset[str]
    inputs: frozenset[str]

    def any(self, node: Any) -> Any:
        if isinstance(node, tuple):
            return tuple(self.any(x) for x in node)
        if not isinstance(node, ast.Syntax):
            return node
        match node:
            case ast.Name():
                return replace(node, id=self.names.get(node.id, node.id))
            case ast.Path():
                return self.path(node)
            case ast.Use() | ast.Precision():
                return node
            case ast.Setting():  # of a device or a cluster: its words are the language's
                return replace(
                    node, values=self.any(node.values), clauses=tuple((w, self.any(x)) for w, x in node.clauses)
                )
            case ast.Attribute():
                name = self.names.get(node.name, node.name) if node.name in self.axes else node.name
                return replace(node, base=self.any(node.base), name=name)
            case ast.Call():
                own = node.function.id in self.functions
                return replace(
                    node,
                    function=self.any(node.function) if own else node.function,
                    arguments=tuple(
                        replace(a, value=self.any(a.value), name=self.any(a.name) if own else a.name)
                        for a in node.arguments
                    ),
                    label=self.any(node.label),
                )
            case ast.Data():  # its options name inputs, others are the reader's own
                given = tuple(
                    replace(a, name=self.any(a.name) if a.name and a.name.id in self.inputs else a.name)
                    for a in node.call.arguments
                )
                return replace(node, call=replace(node.call, arguments=given))
            case ast.InputDecl():
                return replace(node, names=self.any(node.names), dims=self.any(node.dims), range=self.any(node.range))
            case ast.Split() | ast.Shard() | ast.ReduceDecl() | ast.Offload():
                fixed = ("classes", "per")
                new = {f.name: self.any(getattr(node, f.name)) for f in fields(node) if f.name not in fixed}
                return replace(node, **new)
            case ast.Task():
                new = {f.name: self.any(getattr(node, f.name)) for f in fields(node) if f.name != "kind"}
                return replace(node, **new)
        return replace(node, **{f.name: self.any(getattr(node, f.name)) for f in fields(node)})

    def path(self, node: ast.Path) -> ast.Path:
        """Up to where it enters what the library makes; `x_1` is the second `x`."""
        parts: list[ast.Name] = []
        inside = False
        for part in node.parts:
            stem, _, number = part.id.rpartition("_")
            known = part.id if part.id in self.names or not number.isdigit() else stem
            new = part.id
            if not inside and known in self.names:
                new = self.names[known] + part.id[len(known) :]
            inside = inside or known in self.library
            parts.append(replace(part, id=new))
        return replace(node, parts=tuple(parts))


def rename(text: str, names: Mapping[str, str]) -> str:
    """The file under other names."""
    tree = parse(text, "drawn.par")
    functions = frozenset(i.name.id for i in tree.items if isinstance(i, ast.Definition))
    labelled = {
        n.label.id for n in _walk(tree) if isinstance(n, ast.Call) and n.label and n.function.id not in functions
    }
    axes = frozenset(name.id for n in _walk(tree) if isinstance(n, ast.Mesh) for name, _ in n.axes)
    inputs = frozenset(name.id for n in _walk(tree) if isinstance(n, ast.InputDecl) for name in n.names)
    renamer = _Renamer(names, functions, frozenset((STD - functions) | labelled), axes, inputs)
    return print_tree(renamer.any(tree))


def drawn_names(text: str, seed: int, words: tuple[str, ...] = WORDS) -> dict[str, str]:
    """A new name for every name that the file defines, such that it still says the same to the parser."""
    rng = Random(seed)
    tree = parse(text, "drawn.par")
    old = renamable(tree)
    rng.shuffle(old)
    everything = {n.id for n in _walk(tree) if isinstance(n, ast.Name)} | KEPT | STD | STD_DIMS
    pool = [w for w in words if w not in everything - set(old)]
    rng.shuffle(pool)
    found: dict[str, str] = {}
    for name in old:
        for word in [*pool, f"{name}_named"]:
            names = {**found, name: word}
            rest = {n: n for n in old if n not in names}
            if word not in rest and _parses(text, {**names, **rest}):
                found = names
                if word in pool:
                    pool.remove(word)
                break
    return found


def _parses(text: str, names: Mapping[str, str]) -> bool:
    """Whether the file under these names is read as the same tree: a word of the language may mean something else."""
    try:
        new = rename(text, names)
        back = {v: k for k, v in names.items()}
        return parse(rename(new, back), "drawn.par") == parse(print_tree(parse(text, "drawn.par")), "drawn.par")
    except ParcError:
        return False


# --- the same but for names -----------------------------------------------------------------------------------------

MEANT = frozenset(
    {
        ("Type", "dtype"), ("Axis", "kind"), ("StateDecl", "role"), ("StateDecl", "memory"), ("Map", "fn"),
        ("Reduce", "fn"), ("AllReduce", "fn"), ("ReduceScatter", "fn"), ("StageReduce", "fn"), ("Init", "kind"),
        ("Function", "name"), ("Run", "action"), ("Cast", "dtype"), ("Full", "dtype"), ("Random", "dtype"),
        ("Origin", "phase"),
    }
)  # fmt: skip
"""Texts that are no names."""

GROUPS = {"axes": "axis", "dim": "dim", "dims": "dim", "into": "dim", "label": "dim", "gather": "dim", "scatter": "dim"}


class Names:
    """A bijection between the names of two results, for each kind of name."""

    def __init__(self) -> None:
        self.to: dict[tuple[str, str], str] = {}
        self.back: dict[tuple[str, str], str] = {}

    def differ(self, kind: str, a: str, b: str) -> bool:
        return self.to.setdefault((kind, a), b) != b or self.back.setdefault((kind, b), a) != a


def difference(a: Any, b: Any, names: Names, at: str = "", kind: tuple[str, str] = ("", "")) -> str | None:
    """Where two results (programs, parts of them, figures) differ otherwise than by names; None if nowhere."""
    if isinstance(a, Over) and isinstance(b, Over):
        return difference((a.way, a.axes), (b.way, b.axes), names, at, ("Layout", "axes"))
    if isinstance(a, str) and isinstance(b, str):
        if kind in MEANT or type(a) is not type(b):
            return None if a == b else f"{at}: {a} instead of {b}"
        if kind[0] == "Layout" or kind == ("Axis", "name"):
            group = "axis"
        elif kind == ("Dim", "name"):
            group = "dim"
        else:
            group = GROUPS.get(kind[1], ".".join(kind))
        if kind == ("Layout", "pending") and {a, b} & {"sum", "max"}:
            return None if a == b else f"{at}: {a} instead of {b}"
        return f"{at}: {a} as {b}, as another name" if names.differ(group, a, b) else None
    if type(a) is not type(b):
        return f"{at}: {a!r} instead of {b!r}"
    if isinstance(a, Mapping):
        if len(a) != len(b):
            return f"{at}: {sorted(map(str, a))} instead of {sorted(map(str, b))}"
        pairs = zip(a.items(), b.items(), strict=True)
        return next((d for x, y in pairs if (d := difference(x, y, names, f"{at}.{x[0]}", ("", at)))), None)
    if isinstance(a, (tuple, list)):
        if len(a) != len(b):
            return f"{at}: {len(a)} instead of {len(b)}"
        both = enumerate(zip(a, b, strict=True))
        return next((d for i, (x, y) in both if (d := difference(x, y, names, f"{at}[{i}]", kind))), None)
    if isinstance(a, Call):  # functions are called by names of their own: a loop may be called like one
        if names.differ("function", a.body.name, b.body.name):
            return f"{at}: {a.body.name} as {b.body.name}, as another function"
        a, b = (replace(op, body=replace(op.body, name="")) for op in (a, b))
    if is_dataclass(a):
        for f in fields(a):
            if f.init and f.name != "span":  # the others follow from these
                where = (type(a).__name__, f.name)
                if d := difference(getattr(a, f.name), getattr(b, f.name), names, f"{at}.{f.name}", where):
                    return d
        return None
    return None if a == b or a is b else f"{at}: {a!r} instead of {b!r}"


__all__ = ["FLOATS", "Names", "difference", "drawn_names", "renamable", "rename"]
