"""Random syntax trees, of everything that the grammar can say (hypothesis)."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dsl import ast
from dsl.units import UNITS


def words(text: str) -> list[str]:
    return text.split()


# Among them words that are keywords elsewhere.
_WORDS = words(
    "x y z b s d h k v w1 layers data model memory step state input split pad take layout max sum on for to keep cuts "
    "using train schedule master dim weight repeat scan loss metric param use mesh job seed check fn _a B GB"
)
names = st.sampled_from(_WORDS).map(ast.Name)
plain_names = st.sampled_from(["x", "y", "block", "tp", "dp", "ascend910", "f32", "_q"]).map(ast.Name)


def tuples(items: st.SearchStrategy[Any], least: int = 0, most: int = 3) -> st.SearchStrategy[Any]:
    return st.lists(items, min_size=least, max_size=most).map(tuple)


def maybe(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | items


def _of_pieces(name: ast.Name, dims: Any, rest: bool) -> ast.Target:
    axes = tuple(a for _, a in dims)
    return ast.Target(name, tuple(d for d, _ in dims), rest, axes if any(axes) else ())


floats = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
values = st.integers(0, 10**30) | floats
numbers = values.map(ast.Number)
_amounts = st.integers(0, 10**30) | st.floats(min_value=0, max_value=1e280)  # finite in base units, too
quantities = st.builds(ast.Quantity, _amounts, st.sampled_from(sorted(UNITS)))
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("\n\té汉"), max_size=12)
strings = texts.map(ast.String)
paths = tuples(names, 1).map(ast.Path)
patterns = tuples(names | st.just(ast.Name("*")), 1).map(ast.Path)
atoms = names | numbers | quantities | strings | st.booleans().map(ast.Boolean)
_OPERATORS = words("+ - * / // % ** @ < <= > >= == != and or")


def _arguments(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dims = tuples(names, 1)
    special = st.one_of(
        st.builds(ast.Over, dims, st.just(()) | dims),
        st.builds(ast.Over, dims, per_microbatch=st.just(True)),
        st.builds(ast.Arrow, dims, dims),
        st.builds(ast.Range, inner, inner),
    )
    # `over` as a name of an argument: only `=` behind it tells it from the keyword
    return st.builds(ast.Argument, inner | special, maybe(names | st.just(ast.Name("over"))))


def _calls(inner: st.SearchStrategy[Any], label: bool = True) -> st.SearchStrategy[Any]:
    labels = maybe(names) if label else st.none()
    return st.builds(ast.Call, names, tuples(_arguments(inner)), labels)


def _extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(ast.Attribute, inner, names.map(lambda n: n.id)),
        st.builds(ast.Unary, st.sampled_from(["-", "not"]), inner),
        st.builds(ast.Binary, st.sampled_from(_OPERATORS), inner, inner),
        st.builds(ast.Conditional, inner, inner, inner),
        st.builds(ast.ListExpr, tuples(inner)),
        _calls(inner),
    )


expressions = st.recursive(atoms, _extend, max_leaves=8)
calls = _calls(expressions)
bare_calls = _calls(expressions, label=False)
ranges = st.builds(ast.Range, expressions, expressions)
_pieces = st.lists(st.tuples(names, tuples(names, 0, 2)), min_size=1, max_size=3)
targets = (
    st.builds(ast.Target, names)
    | st.builds(ast.Target, names, tuples(names), st.booleans())
    | st.builds(_of_pieces, names, _pieces, st.booleans())
)
bindings = tuples(st.tuples(names, expressions), 1)
list_expressions = tuples(expressions, 1)

# --- statements -------------------------------------------------------------------------------------

_simple = st.one_of(
    st.builds(ast.DimDecl, bindings),
    st.builds(ast.WeightDecl, tuples(targets, 1), maybe(expressions)),
    st.builds(ast.InputDecl, tuples(names, 1), names, tuples(names), maybe(ranges)),
    st.builds(ast.StateDecl, tuples(targets, 1), st.none(), st.just(()), maybe(expressions)),
    st.builds(ast.StateDecl, tuples(targets, 1), names, tuples(names), maybe(expressions)),
    st.builds(ast.Assign, tuples(targets, 1), expressions),
    st.builds(ast.Return, list_expressions),
    st.builds(ast.Loss, expressions),
    st.builds(ast.Metric, names, expressions),
    st.builds(ast.Output, tuples(names, 1)),
    st.builds(ast.Check, expressions),
)


def _blocks(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    body = tuples(inner)
    repeats = st.builds(ast.Repeat, expressions, names, body)
    scans = st.builds(ast.Scan, names, names, body)
    return repeats | scans | st.builds(ast.If, expressions, body, body)


statements = st.recursive(_simple, _blocks, max_leaves=6)

# What stands first after bare words begins with something that is not taken for a part of them.
_first_values = numbers | quantities | strings | names | st.booleans().map(ast.Boolean)
_clauses = tuples(st.tuples(st.just(ast.Name("over")), list_expressions), 0, 2)
settings = st.one_of(
    st.builds(ast.Setting, plain_names, st.just(()), tuples(expressions), _clauses),
    st.builds(
        ast.Setting,
        plain_names,
        tuples(names, 1),
        st.builds(lambda first, rest: (first, *rest), _first_values, tuples(expressions)),
        _clauses,
    ),
)
cluster_statements = st.one_of(
    settings,
    st.builds(ast.DeviceUse, names, names),
    st.builds(ast.Level, names, expressions, names, expressions, expressions),
)
_scopes = maybe(paths)
rules = st.one_of(
    st.builds(ast.Mesh, bindings),
    st.builds(ast.Split, tuples(names, 1), names, tuples(names), _scopes, st.booleans(), maybe(plain_names)),
    st.builds(ast.Shard, tuples(names, 1), names, _scopes, st.booleans()),
    st.builds(ast.ReduceDecl, tuples(names, 1), names, st.sampled_from(["microbatch", "step"]), _scopes),
    st.builds(ast.Offload, tuples(names, 1), names, _scopes, maybe(expressions)),
    st.builds(ast.Offload, tuples(names, 1), names, _scopes, st.none(), expressions, maybe(expressions)),
    st.builds(ast.RunOn, tuples(names, 1), names, _scopes),
    st.builds(ast.Store, names, bare_calls, _scopes),
    st.builds(ast.LayoutDecl, paths, tuples(st.tuples(names, tuples(names)))),
    st.builds(
        ast.Pipeline, st.lists(paths, min_size=1, max_size=3).map(tuple), names, maybe(bare_calls), maybe(expressions)
    ),
    st.builds(ast.Microbatches, expressions, maybe(names)),
    st.builds(ast.PlaceDecl, paths, names, maybe(expressions)),
    st.builds(ast.FuseOff),
    st.builds(ast.Recompute, maybe(tuples(plain_names, 1).map(ast.Path)), tuples(paths)),
    st.builds(ast.Implement, paths, bare_calls),
    st.builds(ast.Apply, st.builds(ast.Call, plain_names, tuples(_arguments(expressions))), _scopes),
)
tasks = st.one_of(
    st.builds(
        ast.Task,
        st.sampled_from(["train", "infer"]).map(ast.Name),
        bare_calls,
        maybe(bare_calls),
        maybe(names),
    ),
    st.builds(ast.Decode, names, maybe(expressions)),
    st.builds(ast.OptimizerUse, bare_calls),
    st.builds(ast.Frozen, tuples(patterns), tuples(patterns)).filter(lambda f: f.weights or f.keep),
    st.builds(ast.Precision, names, maybe(names), maybe(expressions)),
    st.builds(ast.Data, bare_calls),
    st.builds(ast.Seed, expressions),
)

# --- items ------------------------------------------------------------------------------------------

_parameters = tuples(st.builds(ast.Parameter, targets, maybe(expressions)))
items = st.one_of(
    st.builds(ast.Use, paths | strings, tuples(names)),
    st.builds(ast.Param, names, expressions, maybe(ranges | list_expressions)),
    st.builds(ast.Check, expressions),
    *(st.builds(kind, names, _parameters, tuples(statements)) for kind in (ast.Function, ast.Model, ast.Optimizer)),
    st.builds(ast.Device, names, _parameters, tuples(settings)),
    st.builds(ast.Cluster, names, _parameters, tuples(cluster_statements)),
    st.builds(ast.Tactic, names, _parameters, tuples(rules)),
    st.builds(ast.Strategy, names, st.just(()), tuples(rules), maybe(names)),
    st.builds(ast.Job, names, st.just(()), tuples(tasks)),
)
files = tuples(items, 0, 4).map(ast.File)
