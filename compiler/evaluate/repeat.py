"""`repeat` and `scan`: the body becomes a graph of its own; what it assigns of the outer tensors is carried, or (of
what has the dim that is scanned) put together from all positions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from compiler.evaluate import limits, static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.frame import Frame
from compiler.evaluate.scope import Apart, Scope
from compiler.evaluate.statements import assigned, run
from compiler.evaluate.states import finish_states, leave
from compiler.evaluate.values import Bound, Broken, Skip, WeightVar, kind_of
from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.loop_pieces import InnerLoop, whole_path
from compiler.model import LoopPiece
from compiler.ops.elementwise import Transpose
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename
from compiler.origin import last
from dsl import ast
from dsl.diagnostics import fail
from dsl.limits import MAX_LOOPS


def repeat(statement: ast.Repeat, scope: Scope) -> None:
    """Evaluate the body once and append the loop."""
    count = static.integer(evaluate(statement.count, scope), "the count of `repeat`", statement.count.span, 1)
    if count > limits.MAX_COUNT:
        raise limits.beyond(f"`repeat` of {count} iterations, the most is 10^9", statement.count.span)
    span, making = statement.label.span, scope.making
    label, path = _named(statement, scope)
    edges = scope.session.cuts.get(path) if making.kind == "model" and scope.frame.parent is None else None
    if edges is None:
        _Loop(statement, scope, count, label, path).run()
        return
    bounds, apart = edges
    if apart:
        _taken_apart(statement, scope, count, label, path)
        return
    parts = list(pairwise(bounds))
    own = [making.named("label", f"{label}_{low}_{high}", span, making.labels) for low, high in parts]
    inside = [making.named("scope", f"{path}_{low}_{high}", span, making.scopes) for low, high in parts]
    streams, labels = making.streams, making.labels
    for (low, high), name, scope_path in zip(parts, own, inside, strict=True):
        # An iteration draws the same numbers, and the loops in it are called the same, in whichever piece it is.
        making.streams, making.labels = streams.copy(), labels.copy()
        piece = LoopPiece(name, scope_path, label, path, low, high - low, count)
        making.pieces[scope_path] = piece
        making.session.pieces.append(piece)
        _Loop(statement, scope, high - low, name, scope_path).run()


def _taken_apart(statement: ast.Repeat, scope: Scope, count: int, label: str, path: str) -> None:
    """Each iteration by itself, without a loop around it."""
    making, span = scope.making, statement.label.span
    inside = [making.named("scope", f"{path}_{i}_{i + 1}", span, making.scopes) for i in range(count)]
    streams, labels = making.streams, making.labels
    names = tuple(dict.fromkeys(n for s in statement.body for n in assigned(s)))
    for i, own in enumerate(inside):
        making.streams, making.labels = streams.copy(), labels.copy()
        piece = LoopPiece(f"{label}_{i}_{i + 1}", own, label, path, i, 1, count, apart=True)
        making.pieces[own] = piece
        making.session.pieces.append(piece)
        making.apart = Apart(piece)
        inner = Scope(scope.module, making, scope.frame, own, scope.what)
        inner.in_repeat = inner.in_loop = True
        inner.vars, inner.dims, inner.rest = dict(scope.vars), dict(scope.dims), dict(scope.rest)
        for name in names:
            if isinstance(old := scope.vars.get(name), WeightVar):
                inner.vars[name] = scope.read(old, span)
        before, entered = scope.session.failures, dict(inner.vars)
        run(statement.body, inner)
        finish_states(inner)
        whole = replace(piece, inner=tuple(making.apart.inner))
        making.pieces[own] = making.session.pieces[making.session.pieces.index(piece)] = whole
        making.apart = None
        if scope.session.failures > before:
            scope.poison(n for n in names if n in scope.vars)
            raise Skip
        for name in names:
            if isinstance(old := entered.get(name), Value):
                result = inner.vars[name]
                result = inner.read(result, span) if isinstance(result, WeightVar) else result
                assert isinstance(result, Value), name  # the loop as a whole has been evaluated before
                scope.assign(name, result if result.type == old.type else _matched(name, result, old, statement, inner))


def _named(statement: ast.Repeat | ast.Scan, scope: Scope) -> tuple[str, str]:
    """The label of a loop, and its path."""
    span, making, apart = statement.label.span, scope.making, scope.making.apart
    label = making.named("label", statement.label.id, span, making.labels)
    path = scope.child_path(statement.label.id, span)
    if label in making.inner_labels:
        raise fail(
            "E0306", f"`{label}` is the label of a `repeat`, and what parc calls another one", span, help="rename it"
        )
    if apart is None or scope.frame.parent is not None:
        return label, path
    own = f"{label}_of_{apart.piece.label}"  # each iteration has another, and `label` is what it is in the loop
    making.inner_labels.add(own)
    apart.inner.append(InnerLoop(own, path, label, whole_path(path, making.pieces)))
    return own, path


def scan(statement: ast.Scan, scope: Scope) -> None:
    """Evaluate the body once, for one position of the dim, and append the loop over all of them.

    What has the dim outside is, inside, its part at this position; what the body assigns of it is put together again.
    """
    dim = scope.dim(statement.dim)
    if dim.name in scope.making.counts:
        message = f"a `scan` cannot go over `{dim.name}`, whose size is known at run time only"
        raise fail("E0220", message, statement.dim.span, help="declare it of the bound's size, and use `where`")
    _Loop(statement, scope, dim.size, *_named(statement, scope), dim).run()


class _Loop:
    """A `repeat`, or a `scan` over `dim`.

    carried: variable -> its value outside, and the parameter that it enters as. sliced: likewise, of what has the dim.
    """

    def __init__(
        self,
        statement: ast.Repeat | ast.Scan,
        scope: Scope,
        count: int,
        label: str,
        path: str,
        dim: Dim | None = None,
    ) -> None:
        self.statement, self.scope, self.dim = statement, scope, dim
        scope.session.spend_node(statement.span)
        if len(scope.frame.loops) >= MAX_LOOPS:
            raise fail("E0907", f"more than {MAX_LOOPS} loops inside one another", statement.span)
        if dim is not None and statement.label.id in scope.making.dim_names:
            message = f"`{statement.label.id}` is the label of a `scan` and also the name of a dim"
            raise fail("E0306", message, statement.label.span, help="rename one of them")
        scope.making.loop_labels[label] = statement.label.span
        self.frame = frame = Frame(scope.making.names, path, scope.frame, label, count, dim is not None)
        self.inner = inner = Scope(scope.module, scope.making, frame, path, scope.what)
        inner.in_repeat = inner.in_loop = True
        inner.vars, inner.dims, inner.rest = dict(scope.vars), dict(scope.dims), dict(scope.rest)
        self.assigned = tuple(dict.fromkeys(n for s in statement.body for n in assigned(s)))
        self.carried: dict[str, tuple[Value, Value]] = {}
        self.sliced: dict[str, tuple[Value, Value]] = {}

    def run(self) -> None:
        """Evaluate the body and append the loop."""
        scope, inner = self.scope, self.inner
        if self.dim is not None:
            self.slice(self.dim.name)
        for name in self.assigned:
            value = scope.vars.get(name)
            if isinstance(value, WeightVar):
                value = scope.read(value, self.statement.span)
            if isinstance(value, Value) and name not in self.sliced:
                param = self.frame.param(name, value.type, self.statement.span)
                self.carried[name] = (value, param)
                self.frame.carried[param] = name, value
                inner.vars[name] = param
        before = scope.session.failures
        run(self.statement.body, inner)
        if scope.session.failures > before:
            scope.poison(n for n in self.assigned if n in scope.vars)
            raise Skip
        _check_statics(self.statement, scope, inner)
        finish_states(inner)
        self.append()

    def slice(self, dim: str) -> None:
        """Inside, there is no such dim: variables that have it are their parts at one position."""
        scope, inner = self.scope, self.inner
        inner.dims = {n: d for n, d in inner.dims.items() if d.name != dim}
        inner.rest = {n: None for n in inner.rest if n != dim}
        known = scope.making.extents
        for name, value in scope.vars.items():
            if isinstance(value, WeightVar) and value.declared.type.has(dim):
                value = scope.read(value, self.statement.span)
            if not isinstance(value, Value) or not value.type.has(dim) or value.type.size(dim) != self.frame.count:
                continue
            part = Type(value.type.dtype, tuple(d for d in value.type.dims if d.name != dim))
            param = self.frame.param(name, part, value.span)
            self.sliced[name] = value, param
            inner.vars[name] = param
            if value in known:
                known[param] = known[value]

    def result(self, name: str) -> Value:
        """What an iteration leaves in a variable."""
        result = self.inner.vars[name]
        if isinstance(result, WeightVar):
            result = self.inner.read(result, self.statement.span)
        if not isinstance(result, Value):
            message = f"`{name}` is a tensor before the loop and {kind_of(result)} after an iteration"
            raise fail("E0301", message, self.statement.label.span)
        return result

    def append(self) -> None:
        """The loop, with what its iterations use; what they give is assigned outside."""
        frame, scope, span = self.frame, self.scope, self.statement.span
        used = {v for node in frame.builder.nodes for v in node.inputs}
        entered = {**self.carried, **self.sliced}
        results = {n: self.result(n) for n in self.assigned if n in entered}
        used.update(v for n, v in results.items() if v is not entered[n][1])
        carries: list[tuple[str, Value, Value, Value]] = []  # name, before, parameter, after
        for name, (outside, param) in self.carried.items():
            result = results[name]
            # What changes in training alone goes through without: of a pipeline it comes out where it does there.
            if result is param and param.origin.path not in scope.making.carried_before:
                if param in used:
                    frame.imports[outside] = param  # nothing changes it: an invariant
                continue
            result = frame.local(result)
            if result.type != param.type:
                result = _matched(name, result, param, self.statement, self.inner)
            carries.append((name, outside, param, result))
            scope.making.carried.add(param.origin.path)
        made = {n: frame.local(v) for n, v in results.items() if n in self.sliced and v is not self.sliced[n][1]}
        kept = frame.results
        used.update(v for _, v in kept)
        outputs = (*(c[3] for c in carries), *made.values(), *(v for _, v in kept))
        if not outputs:
            if not scope.making.training:  # it computes something in training only
                return
            raise self.nothing()
        slices = [(v, p) for v, p in self.sliced.values() if p in used or p in outputs]
        stacks = [(s, p) for s, p in frame.stacks if p in used or p in outputs]
        imports = [(o, p) for o, p in frame.imports.items() if p in used or p in outputs]
        params = (*(c[2] for c in carries), *(p for _, p in (*stacks, *slices, *imports)))
        op = Repeat(
            frame.label,
            frame.count,
            Graph(frame.path, params, tuple(frame.builder.nodes), outputs),
            len(carries),
            len(stacks) + len(slices),
            scan=self.dim is not None,
        )
        outer = scope.frame
        given = (*(c[1] for c in carries), *(s for s, _ in stacks), *(self.stack(v) for v, _ in slices))
        operands = [outer.local(v) for v in (*given, *(o for o, _ in imports))]
        types = op.infer(*(v.type for v in operands))
        outer.builder.scope = scope.path
        finals = [outer.builder.value(c[0], t, span) for c, t in zip(carries, types)]
        outer.builder.scope = frame.path  # of what is stacked: its own name is for what becomes of it
        stacked = [outer.builder.value(n, t, span) for n, t in zip(made, types[len(carries) :])]
        of_states = types[len(carries) + len(made) :]
        contents = [outer.builder.value(last(s.declared.name), t, span) for (s, _), t in zip(kept, of_states)]
        outer.builder.nodes.append(Node(op, tuple(operands), (*finals, *stacked, *contents), span))
        outer.own.update((*finals, *stacked, *contents))
        for (variable, _), value in zip(kept, contents):
            leave(outer, variable, value)
        for (name, *_), value in zip(carries, finals):
            scope.assign(name, value)
        for name, value in zip(made, stacked):
            scope.assign(name, self.unstacked(name, value))

    def nothing(self) -> Exception:
        """Why the loop is of no use."""
        if any(isinstance(self.scope.vars.get(n), Broken) for n in self.assigned):
            return Skip()
        word, label = ("scan", "repeat")[self.dim is None], self.statement.label
        help = "assign what it carries before the loop: `x = …`"
        if self.dim is not None:
            help += f"; what it gives at each position has `{self.dim.name}` there: `y = zeros(…, {self.dim.name})`"
        message = f"nothing that `{word}` computes is used: `{label.id}` assigns no variable from before it"
        return fail("E0310", message, label.span, help=help)

    def stack(self, value: Value) -> Value:
        """A value with the scanned dim in front, under the loop's name."""
        assert self.dim is not None
        dim, name, span = self.dim.name, last(value.origin.path), self.statement.span
        order = (dim, *(n for n in value.type.names if n != dim))
        if order != value.type.names:
            value = self.scope.emit(Transpose(order), value, span=span, name=name)
        return self.scope.emit(Rename(((dim, self.frame.label),)), value, span=span, name=name)

    def unstacked(self, name: str, value: Value) -> Value:
        """What the iterations gave, along the scanned dim; in the order in which the variable had its dims."""
        assert self.dim is not None
        before = self.sliced[name][0].type.names
        back = Rename(((self.frame.label, self.dim.name),))
        whole = self.scope.emit(back, value, span=self.statement.span, name=name)
        if set(before) != set(whole.type.names) or before == whole.type.names:
            return whole
        return self.scope.emit(Transpose(before), whole, span=self.statement.span, name=name)


def _check_statics(statement: ast.Repeat | ast.Scan, scope: Scope, inner: Scope) -> None:
    """Static values cannot change from iteration to iteration: the body is evaluated once."""
    for s in statement.body:
        for name in assigned(s):
            old, new = scope.vars.get(name), inner.vars.get(name)
            if old is None or isinstance(old, (Value, WeightVar, Broken)) or new is old or isinstance(new, Broken):
                continue
            message = f"`{name}` is {kind_of(old)}: the iterations of a `repeat` cannot change it"
            help = "only tensors are carried from iteration to iteration"
            if (begun := _begun_as_tensor(name, old, new, scope)) is not None:
                help += f": before the loop, write `{begun}`"
            raise fail("E0309", message, s.span, help=help)


def _begun_as_tensor(name: str, old: Bound, new: Bound | None, scope: Scope) -> str | None:
    """The assignment before the loop that makes a tensor of the number or boolean `old`, of the type that an iteration
    gives; in masters' type where that is a number (a counter)."""
    if isinstance(old, bool):
        tensor = Type("bool") if isinstance(new, bool) else new.type if isinstance(new, Value) else None
        if tensor is None or tensor.dtype != "bool" or any(scope.find_dim(d.name) != d for d in tensor.dims):
            return None
        return f"{name} = {'ones' if old else 'zeros'}({', '.join([*tensor.names, 'dtype = bool'])})"
    if not isinstance(old, (int, float)):
        return None
    if static.is_number(new):
        return f"{name} = zeros(dtype = master)" if old == 0 else f"{name} = full({old}, dtype = master)"
    if not isinstance(new, Value):
        return None
    if any(scope.find_dim(d.name) != d for d in new.type.dims):
        return None
    precision = scope.making.precision
    words = {precision.master: "master", precision.compute: "compute"} if new.type.dims else {}
    words = words or {precision.compute: "compute", precision.master: "master"}  # scalars are sums: losses
    word = words.get(new.type.dtype, new.type.dtype)
    arguments = ", ".join([*new.type.names, *([] if word == "compute" else [f"dtype = {word}"])])
    return (
        f"{name} = zeros({arguments})"
        if old == 0
        else f"{name} = full({', '.join(filter(None, [str(old), arguments]))})"
    )


def _matched(name: str, result: Value, param: Value, statement: ast.Repeat | ast.Scan, inner: Scope) -> Value:
    """The carried value with its dims in the order in which it came."""
    if result.type.dtype == param.type.dtype and sorted(map(str, result.type.dims)) == sorted(
        map(str, param.type.dims)
    ):
        return inner.emit(Transpose(param.type.names), result, span=statement.span, name=name)
    message = f"`{name}` is {param.type} before an iteration of `{statement.label.id}` and {result.type} after it"
    help = "it must keep its dims and its dtype"
    if result.type.dims == param.type.dims:
        help = f"cast it where it is assigned last: `cast(…, {param.type.dtype})`"
    last = [s for s in statement.body if name in assigned(s)][-1]
    raise fail("E0301", message, last.span, help=help)
