"""How each local op is written: one emitter per op, an expression of PyTorch on the variables of its operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

from compiler.graph import Node, Value
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Normal, Random
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.index import Scatter, ScatterAdd, Take
from compiler.ops.move import Move
from compiler.ops.reduce import ArgMax, Cumsum, Reduce, TopK
from compiler.ops.rows import ReadRows, UniqueRows, WriteRows
from compiler.ops.shape import Concat, Flip, Merge, Pad, Rename, Shift, Slice, Split
from compiler.ops.window import Fold, Window, span
from compiler.ops.zigzag import ZigZag
from parc.exporting.torch.writer import DTYPES, Writer, emit, number, tuple_of

INFIX = {
    **{"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "=="},
    **{"ne": "!=", "and": "&", "or": "|", "floordiv": "//", "mod": "%", "pow": "**"},
}


@emit(Map)
def map_(op: Map, node: Node, w: Writer) -> str:
    """Operands are views that broadcast by the names of their dims. PyTorch has the functions under their names."""
    names, given = node.output.type.names, iter(node.inputs)
    args = [w.aligned(next(given), names) if s is None else number(s) for s in op.slots]
    if op.fn in INFIX:
        return f"{args[0]} {INFIX[op.fn]} {args[1]}"
    if op.fn in ("neg", "not"):
        return f"{'-' if op.fn == 'neg' else '~'}{args[0]}"
    if op.fn == "where":
        return f"torch.where({', '.join(args)})"
    if op.fn in ("maximum", "minimum") and None in op.slots and op.slots != (None, None):
        tensor, bound = args if op.slots[0] is None else args[::-1]
        if w.derived:  # where both are equal each gets half of the gradient
            typed = DTYPES[node.output.type.dtype]
            return f"torch.{op.fn}({tensor}, torch.full((), {bound}, dtype={typed}, device=DEVICE))"
        return f"{tensor}.clamp({'min' if op.fn == 'maximum' else 'max'}={bound})"
    return f"torch.{op.fn}({', '.join(args)})"


@emit(Cast)
def cast(op: Cast, node: Node, w: Writer) -> str:
    """To the type that it has: a copy, such as states need that change places."""
    (x,) = node.inputs
    return f"{w.ref(x)}.clone()" if x.type.dtype == op.dtype else f"{w.ref(x)}.to({DTYPES[op.dtype]})"


@emit(Rename, Move)
def same(op: Rename, node: Node, w: Writer) -> str:
    """Names of dims are not there at run time, and a device of PyTorch has one memory."""
    return w.ref(node.inputs[0])


@emit(StopGradient)
def stop_gradient(op: StopGradient, node: Node, w: Writer) -> str:
    return f"{w.ref(node.inputs[0])}.detach()"


@emit(Broadcast)
def broadcast(op: Broadcast, node: Node, w: Writer) -> str:
    return f"{w.aligned(node.inputs[0], node.output.type.names)}.expand({w.shape(node.output)})"


@emit(Transpose)
def transpose(op: Transpose, node: Node, w: Writer) -> str:
    return permuted(w.ref(node.inputs[0]), node.inputs[0].type.names, op.dims)


def permuted(text: str, names: Sequence[str], order: Sequence[str]) -> str:
    """A view of the dims in another order."""
    return text if tuple(names) == tuple(order) else f"{text}.permute({', '.join(str(names.index(n)) for n in order)})"


def is_matrix_product(node: Node) -> bool:
    """Whether it is a product of rows with a matrix whose summed dims stand first."""
    if not isinstance(node.op, Contract):
        return False
    a, b, out = (v.type.names for v in (*node.inputs, node.output))
    summed = tuple(n for n in a if n in b and n not in out)
    rows, columns = tuple(n for n in a if n not in summed), tuple(n for n in b if n not in summed)
    return bool(summed and columns) and (rows + summed, summed + columns, rows + columns) == (a, b, out)


@emit(Contract)
def contract(op: Contract, node: Node, w: Writer) -> str:
    """A product of matrices where the dims stand so, else an `einsum`. Of integers in f64, exact up to sums of 2^53:
    there are no such products of integers but on processors."""
    if node.output.type.dtype != "int32":
        return _product(node, w, w.ref)
    return f"({_product(node, w, lambda v: f'{w.ref(v)}.double()')}).to(torch.int64).to(torch.int32)"


def _product(node: Node, w: Writer, ref: Callable[[Value], str]) -> str:
    left, right = node.inputs
    a, b, out = left.type.names, right.type.names, node.output.type.names
    summed = tuple(n for n in a if n in b and n not in out)
    rows, columns = tuple(n for n in a if n not in summed), tuple(n for n in b if n not in summed)
    if summed and rows + columns == out and not set(rows) & set(columns) and columns:
        if a == rows + summed and b == columns + summed and len(summed) == len(columns) == 1:
            return f"functional.linear({ref(left)}, {ref(right)})"
        if a == rows + summed and b == summed + columns:
            x, y = ref(left), ref(right)
            x += f".flatten({len(rows)})" if len(summed) > 1 else ""
            y += f".flatten({len(summed)})" if len(columns) > 1 else ""
            y += f".flatten(0, {len(summed) - 1})" if len(summed) > 1 else ""
            wide = tuple_of(str(w.local(right).size(n)) for n in columns)
            return f"{x} @ {y}" if len(columns) == 1 else f"({x} @ {y}).unflatten(-1, {wide})"
    letters = dict(zip(dict.fromkeys((*a, *b)), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    rule = ",".join("".join(letters[n] for n in names) for names in (a, b)) + "->" + "".join(letters[n] for n in out)
    return f'torch.einsum("{rule}", {ref(left)}, {ref(right)})'


# --- reductions ---------------------------------------------------------------------------------------


def _dims(value: Value, names: Sequence[str]) -> str:
    found = [str(value.type.index(n)) for n in names]
    return found[0] if len(found) == 1 else f"({', '.join(found)})"


@emit(Reduce)
def reduce(op: Reduce, node: Node, w: Writer) -> str:
    x = node.inputs[0]
    if not op.dims:
        return w.ref(x)
    typed = ", dtype=torch.int32" if x.type.dtype == "int32" and op.fn == "sum" else ""
    return f"{w.ref(x)}.{'amax' if op.fn == 'max' else 'sum'}({_dims(x, op.dims)}{typed})"


@emit(Cumsum)
def cumsum(op: Cumsum, node: Node, w: Writer) -> str:
    x = node.inputs[0]
    at, typed = x.type.index(op.dim), DTYPES[x.type.dtype]
    text = f"cumsum({at}, dtype={typed})"
    return f"{w.ref(x)}.flip({at}).{text}.flip({at})" if op.reverse else f"{w.ref(x)}.{text}"


@emit(ArgMax)
def argmax(op: ArgMax, node: Node, w: Writer) -> str:
    return f"{w.ref(node.inputs[0])}.argmax({node.inputs[0].type.index(op.dim)}).to(torch.int32)"


@emit(TopK)
def top_k(op: TopK, node: Node, w: Writer) -> str:
    """Of equal ones the first comes first."""
    x = node.inputs[0]
    return f"{w.use('top_k')}({w.ref(x)}, {op.into.size}, {x.type.index(op.dim)})"


# --- dims ---------------------------------------------------------------------------------------------


@emit(Split)
def split(op: Split, node: Node, w: Writer) -> str:
    return f"{w.ref(node.inputs[0])}.reshape({w.shape(node.output)})"


@emit(Merge)
def merge(op: Merge, node: Node, w: Writer) -> str:
    names, order = node.inputs[0].type.names, list[str]()
    for n in names:
        order += op.dims if n == op.dims[0] else () if n in op.dims else (n,)
    return f"{permuted(w.ref(node.inputs[0]), names, order)}.reshape({w.shape(node.output)})"


@emit(Slice)
def slice_(op: Slice, node: Node, w: Writer) -> str:
    at = node.inputs[0].type.index(op.dim)
    step = f":{op.step}" if op.step != 1 else ""
    return f"{w.ref(node.inputs[0])}[{':, ' * at}{op.start}:{op.stop}{step}]"


def _padding(rank: int, at: int, low: int | str, high: int | str) -> str:
    """`functional.pad` counts from the last dim."""
    return tuple_of([*["0"] * (2 * (rank - 1 - at)), str(low), str(high)])


@emit(Pad)
def pad(op: Pad, node: Node, w: Writer) -> str:
    x = node.inputs[0]
    border = _padding(len(x.type.dims), x.type.index(op.dim), op.low, op.high)
    return f"functional.pad({w.ref(x)}, {border}, value={number(op.value)})"


@emit(Concat)
def concat(op: Concat, node: Node, w: Writer) -> str:
    names = [w.ref(v) for v in node.inputs]
    return f"torch.cat({tuple_of(names)}, {node.inputs[0].type.index(op.dim)})"


@emit(Flip)
def flip(op: Flip, node: Node, w: Writer) -> str:
    return f"{w.ref(node.inputs[0])}.flip({node.inputs[0].type.index(op.dim)})"


@emit(Shift)
def shift(op: Shift, node: Node, w: Writer) -> str:
    x = node.inputs[0]
    at, size, far = x.type.index(op.dim), w.local(x).size(op.dim), abs(op.by)
    if op.around:
        return f"{w.ref(x)}.roll({op.by}, {at})"
    kept = f"narrow({at}, {max(-op.by, 0)}, {size - far})"
    border = _padding(len(x.type.dims), at, max(op.by, 0), max(-op.by, 0))
    return f"functional.pad({w.ref(x)}.{kept}, {border}, value={number(op.fill)})"


@emit(ZigZag)
def zigzag(op: ZigZag, node: Node, w: Writer) -> str:
    x = node.inputs[0]
    return f"{w.use('zigzag')}({w.ref(x)}, {x.type.index(op.dim)}, {op.parts}, {op.back})"


@emit(Window)
def window(op: Window, node: Node, w: Writer) -> str:
    """A view of the windows that a kernel sees along a dim. A piece of a split dim comes with its borders."""
    x, y = node.inputs[0], node.output
    at, n, wide = x.type.index(op.dim), w.local(y).size(op.out.name), span(op.kernel.size, op.dilation)
    low = 0 if w.axes(x, at) else op.pad
    high = max(0, (n - 1) * op.stride + wide - low - w.local(x).size(op.dim))
    text = w.ref(x)
    if low or high:
        text = f"functional.pad({text}, {_padding(len(x.type.dims), at, low, high)}, value={number(op.fill)})"
    rest = f"[..., ::{op.dilation}]" if op.dilation > 1 else ""
    return f"{text}.unfold({at}, {wide}, {op.stride}).narrow({at}, 0, {n}){rest}.movedim(-1, {at + 1})"


@emit(Fold)
def fold(op: Fold, node: Node, w: Writer) -> str:
    """Sums of windows at the places that they came from."""
    x, y = node.inputs[0], node.output
    at = y.type.index(op.dim.name)
    low = 0 if w.axes(y, at) else op.pad
    text = permuted(w.ref(x), x.type.names, _windows_last(x.type.names, op.out, op.kernel))
    size = w.local(y).size(op.dim.name)
    return f"{w.use('fold')}({text}, {at}, {size}, {low}, {op.stride}, {op.dilation})"


def _windows_last(names: Sequence[str], out: str, kernel: str) -> list[str]:
    return [*(n for n in names if n != kernel), kernel]


# --- made from positions ------------------------------------------------------------------------------


@emit(Iota)
def iota(op: Iota, node: Node, w: Writer) -> str:
    """Positions along a dim, of this piece and of this stage's iterations."""
    y = node.output
    text = f"torch.arange({w.local(y).shape[0]}, dtype=torch.int32, device=DEVICE)"
    for r in w.cls.ranges:
        if (r.dim, r.count, r.chunk) == (op.dim.name, op.dim.size, w.chunk):
            at = r.start
            start = f"{at.base} + {at.slope} * GROUP" if at.slope else str(at.base)
            text += f" + {start}" if start != "0" else ""
    first = [o for o in (w.offset(y, 0),) if o]
    if op.zigzag:
        length = op.dim.size // (2 * op.zigzag)
        text, first = f"{w.use('in_zigzag')}({' + '.join([text, *first])}, {length}, {op.zigzag})", []
    return " + ".join([text, *first, *map(w.ref, node.inputs)])


@emit(Full)
def full(op: Full, node: Node, w: Writer) -> str:
    value = bool(op.value) if op.dtype == "bool" else int(op.value) if "int" in op.dtype else op.value
    return f"torch.full({w.shape(node.output)}, {number(value)}, dtype={DTYPES[op.dtype]}, device=DEVICE)"


def _drawn(helper: str, op: Random | Normal, node: Node, w: Writer) -> str:
    y = node.output
    starts = [w.offset(y, d) or "0" for d in range(len(y.type.dims))]
    key = ", ".join([str(w.program.seed), str(crc32(op.stream.encode())), *(w.ref(v) for v in node.inputs)])
    place = f"places({w.shape(y)}, {tuple_of(starts)}, {tuple_of(map(str, y.type.shape))})"
    w.use("places")
    return f"{w.use(helper)}(hashed({key}), {place}, {DTYPES[op.dtype]})"


@emit(Random)
def random(op: Random, node: Node, w: Writer) -> str:
    """The bits belong to logical places, so that every layout draws the same."""
    return _drawn("uniform", op, node, w)


@emit(Normal)
def normal(op: Normal, node: Node, w: Writer) -> str:
    """As for `Random`."""
    return _drawn("normal", op, node, w)


# --- by index -----------------------------------------------------------------------------------------


def _rows(table: Value, index: Value, dim: str) -> tuple[list[str], list[str]]:
    """Dims of a table that are matched with those of the index, and its others but `dim`."""
    batched = [n for n in table.type.names if index.type.has(n)]
    return batched, [n for n in table.type.names if n != dim and n not in batched]


def _numbers(index: Value, batched: Sequence[str], begin: str) -> str:
    """Arguments of helpers: where in the index its matched dims stand, and where this piece of the table begins."""
    at = tuple_of([str(index.type.index(n)) for n in batched]) if batched else "()"
    return f"{at}, {begin or 0}"


@emit(Take)
def take(op: Take, node: Node, w: Writer) -> str:
    """Rows by number; numbers of rows that lie elsewhere give zeros."""
    table, index = node.inputs
    batched, others = _rows(table, index, op.dim)
    begin = w.offset(table, table.type.index(op.dim))
    rows = permuted(w.ref(table), table.type.names, [*batched, op.dim, *others])
    made = [*index.type.names, *others]
    if not begin and not batched and len(others) == 1 and w.within(index, table.type.size(op.dim)):
        narrow = table.type.dtype in ("bf16", "f16")  # the gradient would be added up in 16 bits
        wide, back = (".float()", f".to({DTYPES[table.type.dtype]})") if narrow else ("", "")
        text = f"functional.embedding({w.ref(index)}, {rows}{wide}){back}"
        return permuted(text, made, node.output.type.names)
    text = f"{w.use('take')}({rows}, {w.ref(index)}, {_numbers(index, batched, begin)})"
    return permuted(text, made, node.output.type.names)


@emit(ScatterAdd)
def scatter_add(op: ScatterAdd, node: Node, w: Writer) -> str:
    """Rows that are added up by number."""
    src, index = node.inputs
    out = node.output
    batched = [n for n in out.type.names if index.type.has(n)]
    others = [n for n in out.type.names if n != op.dim.name and n not in batched]
    made = [*batched, op.dim.name, *others]
    rows = permuted(w.ref(src), src.type.names, [*index.type.names, *others])
    begin = w.offset(out, out.type.index(op.dim.name))
    sizes = tuple_of([str(w.local(out).size(n)) for n in made])
    text = f"{w.use('scatter_add')}({rows}, {w.ref(index)}, {sizes}, {_numbers(index, batched, begin)})"
    return permuted(text, made, out.type.names)


@emit(Scatter)
def scatter(op: Scatter, node: Node, w: Writer) -> str:
    """Rows that are replaced by number; of those named twice the last counts."""
    table, src, index = node.inputs
    batched, others = _rows(table, index, op.dim)
    made = [*batched, op.dim, *others]
    rows = permuted(w.ref(src), src.type.names, [*index.type.names, *others])
    begin = w.offset(table, table.type.index(op.dim))
    whole = permuted(w.ref(table), table.type.names, made)
    text = f"{w.use('scatter')}({whole}, {rows}, {w.ref(index)}, {_numbers(index, batched, begin)})"
    return permuted(text, made, node.output.type.names)


@emit(UniqueRows)
def unique_rows(op: UniqueRows, node: Node, w: Writer) -> str:
    """Rows of each number, added up, in the slots of those parts of the table that are here; and their numbers."""
    made, numbers = node.outputs
    columns = [n for n in made.type.names if n != op.slot.name]
    lists = []
    for rows, index in zip(node.inputs[::2], node.inputs[1::2], strict=True):
        order = [*index.type.names, *columns]
        lists.append(f"({permuted(w.ref(rows), rows.type.names, order)}, {w.ref(index)})")
    part = f"{op.slot.size // op.parts}, {-(-op.dim.size // op.parts)}"  # slots and rows
    sizes = tuple_of([str(w.local(numbers).shape[0]), *(str(w.local(made).size(n)) for n in columns)])
    at = made.type.index(op.slot.name)
    place = f"{at}, {w.offset(numbers, 0) or 0}, {part}, {op.dim.size}"
    return f"{w.use('unique_rows')}({tuple_of(lists)}, {sizes}, {place})"


@emit(ReadRows)
def read_rows(op: ReadRows, node: Node, w: Writer) -> str:
    """Rows by number, zeros for those that are not here; along the dim itself, where the table's dims stand."""
    table, numbers = node.inputs
    at = table.type.index(op.dim)
    return f"{w.use('read_rows')}({w.ref(table)}, {w.ref(numbers)}, {at}, {w.offset(table, at) or 0})"


@emit(WriteRows)
def write_rows(op: WriteRows, node: Node, w: Writer) -> str:
    """The table with other rows at these numbers, as far as they are here."""
    table, rows, numbers = node.inputs
    at = table.type.index(op.dim)
    order = [numbers.type.names[0] if n == op.dim else n for n in table.type.names]
    given = permuted(w.ref(rows), rows.type.names, order)
    return f"{w.use('write_rows')}({w.ref(table)}, {given}, {w.ref(numbers)}, {at}, {w.offset(table, at) or 0})"
