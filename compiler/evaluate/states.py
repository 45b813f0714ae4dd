"""States of a model: what it keeps from one step to the next besides its weights, in the forward pass.

A state is a variable. What it has been assigned last when its scope ends is what it contains afterwards. One that is
declared in a loop is a stack with one slice per iteration, like a weight there: each iteration renews its own.
"""

from __future__ import annotations

from compiler.evaluate import dtypes
from compiler.evaluate.expressions import tensor
from compiler.evaluate.frame import Frame
from compiler.evaluate.initial import initializer
from compiler.evaluate.scope import Scope, check_size
from compiler.evaluate.values import Broken, Skip, is_static, kind_of
from compiler.evaluate.written import not_by_hand
from compiler.graph import Type, Value
from compiler.initial import misfit
from compiler.model import Init, State
from compiler.ops.elementwise import Transpose
from compiler.origin import Origin, Role
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.source import Span


@dataclass(eq=False, slots=True)
class StateVar:
    """A state, the value that it has where it is declared (its slice, in a loop), and what it contains in the end.

    final: at the top of the model; None until it is known.
    """

    declared: State
    part: Value
    span: Span
    final: Value | None = None


def model_states(statement: ast.StateDecl, scope: Scope) -> None:
    """Declare states of a model: variables of this scope that begin as what they contain."""
    if any(f.scan for f in scope.frame.loops):
        help = "declare it before: the `scan` carries it from position to position"
        raise fail("E0302", "a state cannot stand in a `scan`", statement.span, help=help)
    init = initializer(statement.init, scope) if statement.init else Init("zeros")
    for target in statement.targets:
        if target.axes:
            raise not_by_hand(target.span, f"the state `{target.name.id}` in pieces")
        _declare(target, _own_type(target, statement, scope), init, scope)


def _own_type(target: ast.Target, statement: ast.StateDecl, scope: Scope) -> Type:
    """Without the loops around it."""
    name = target.name.id
    if statement.dtype is None:
        if target.dims is None or target.rest:
            help = f"`state {name}[…]`, or `state {name} : int32[…]`; without dims `{name}[]` is a single number"
            raise fail("E0208", f"the state `{name}` of a model needs dims", target.span, help=help)
        return Type(scope.making.precision.master, scope.dim_list(target.dims))
    if target.dims is not None or target.rest:
        raise fail("E0208", f"the dims of `{name}` stand behind the colon", target.span)
    known = scope.making.dtypes()
    if statement.dtype.id not in known:
        help = dtypes.meant(statement.dtype.id, known)
        raise fail("E0207", f"there is no dtype `{statement.dtype.id}`", statement.dtype.span, help=help)
    return Type(known[statement.dtype.id], scope.dim_list(statement.dims))


def _declare(target: ast.Target, own: Type, init: Init, scope: Scope) -> None:
    making, name, span = scope.making, target.name.id, target.span
    if name in scope.vars and scope.frame is scope.frame.outermost and making.apart is None:
        raise fail("E0102", f"there are two `{name}`", span)
    problem = misfit(init, own.dtype)
    if problem is not None:
        code, message = problem
        raise fail(code, message, span, help="`zeros`, `ones`, `constant(3)`")
    frames = scope.frame.loops
    loops = tuple(f.loop for f in frames)
    path = making.named("state", f"{scope.path}.{name}" if scope.path else name, span, making.names)
    type = Type(own.dtype, (*loops, *own.dims))
    if len(set(type.names)) != len(type.names):
        twice = next(n for n in type.names if type.names.count(n) > 1)
        raise fail("E0205", f"the state `{name}` would have dim `{twice}` twice", span)
    check_size(type, f"the state `{name}`", span)
    scope.session.spend_node(span)
    whole = Value(path, type, span, Origin(path))
    scope.frame.outermost.own.add(whole)
    part = whole
    for frame in frames:
        frame.builder.scope = ""
        part = frame.slice_of(part, f"{whole.name.removeprefix(frame.path + '.')}.slice")
    state = State(whole, init, Role.STATE, loops=tuple(d.name for d in loops))
    variable = StateVar(state, part, span)
    making.model_states.append(variable)
    scope.states[name] = variable
    scope.assign(name, part)


def finish_states(scope: Scope) -> None:
    """Where a scope ends: what its states contain from now on leaves its frame."""
    for name, variable in scope.states.items():
        value = scope.vars[name]
        if isinstance(value, Broken):
            raise Skip
        if value is variable.part:
            continue
        if is_static(value):
            raise fail("E0301", f"the state `{name}` is a tensor, and {kind_of(value)} in the end", variable.span)
        x = tensor(value, scope, variable.span, f"the state `{name}`")
        want = variable.part.type
        if x.type != want:
            if x.type.dtype != want.dtype or set(x.type.dims) != set(want.dims):
                help = f"cast it where it is assigned last: `cast(…, {want.dtype})`"
                help = help if x.type.dims == want.dims else "it must keep its dims and its dtype"
                raise fail("E0301", f"the state `{name}` is {want}, and {x.type} in the end", variable.span, help=help)
            x = scope.emit(Transpose(want.names), x, span=variable.span, name=name)
        leave(scope.frame, variable, x)


def leave(frame: Frame, variable: StateVar, value: Value) -> None:
    """What a state contains in the end, as a result of the frame's loop; at the top: for good."""
    if frame.parent is None:
        variable.final = value
    else:
        frame.results.append((variable, frame.local(value)))
