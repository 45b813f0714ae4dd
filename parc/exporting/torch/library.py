"""The functions that exported files bring with them, as text: each file has those that it needs."""

from __future__ import annotations

import re
from collections.abc import Collection

# --- local --------------------------------------------------------------------------------------------

_LOCAL = '''
def piece(axes, i=0):
    """The number of this device's piece among those that the axes make; i: the micro-batch."""
    number = 0
    for axis in axes:
        number = number * SIZES[axis] + (i if axis == TIME else AT[axis])
    return number


def span(whole, axes, i=0):
    """Where in a dim this device's piece begins, how much of it there is, and how long pieces are: each axis cuts what
    those before it have left into parts of equal length, rounded up; i: the micro-batch."""
    low, high, size = 0, whole, whole
    for axis in axes:
        size = -(-size // SIZES[axis])
        low += (i if axis == TIME else AT[axis]) * size
        high = min(high, low + size)
    return low, max(high - low, 0), size


def cut(x, axes, i):
    """This device's piece of a whole tensor, for micro-batch i; axes: for each dim those that split it."""
    for dim, split in enumerate(axes):
        if split:
            low, used, size = span(x.shape[dim], split, i)
            x = filled(x.narrow(dim, min(low, x.shape[dim]), used), dim, size)
    return x


def filled(x, dim, size):
    """x with zeros behind it, up to a size along a dim."""
    return x if x.shape[dim] == size else torch.cat((x, x.new_zeros(resized(x, dim, size - x.shape[dim]))), dim)


def resized(x, dim, size):
    """The shape of x with another size along a dim."""
    return (*x.shape[:dim], size, *x.shape[dim + 1 :])


def products(x, summed, *pairs):
    """x times several matrices, each with a bias or None, as one product; summed: how many dims of each matrix go."""
    flat = [m.flatten(0, summed - 1).flatten(1) for m, _ in pairs]
    bias = None
    if any(b is not None for _, b in pairs):
        bias = torch.cat([f.new_zeros(f.shape[1]) if b is None else b.flatten() for f, (_, b) in zip(flat, pairs)])
    found = functional.linear(x.flatten(-summed), torch.cat(flat, 1).T, bias).split([m.shape[1] for m in flat], -1)
    return [y.unflatten(-1, m.shape[summed:]) for y, (m, _) in zip(found, pairs)]


def adamw(w, g, m, v, rate, first, second, beta1, beta2, eps, decay):
    """AdamW: the weight and both means after a step; first, second: what corrects the means."""
    if w.device.type != "cpu" or torch.compiler.is_compiling():
        m, v = torch.lerp(m, g, 1 - beta1), torch.lerp(v, g * g, 1 - beta2)
        return w - rate * (m / first / (torch.sqrt(v / second) + eps) + decay * w), m, v
    w, m, v, first, root = w.clone(), m.clone(), v.clone(), float(first), math.sqrt(float(second))
    numbers = {"lr": float(rate) * root / first, "weight_decay": decay * first / root, "eps": eps * root}
    steps = [torch.full((), math.inf)]  # of so many steps it corrects no means: the numbers do
    torch._fused_adamw_(
        [w], [g.contiguous()], [m], [v], [], steps, beta1=beta1, beta2=beta2, amsgrad=False, maximize=False, **numbers
    )
    return w, m, v


def layer_norm_backward(dy, x, shape, mean, root, scale, wanted):
    """The derivatives of a layer norm by x and, where they are wanted, by scale and shift."""
    given = x.new_ones(shape) if scale is None and any(wanted) else scale
    mask = (True, *wanted)
    found = torch.ops.aten.native_layer_norm_backward(dy, x, shape, mean, root, given, given, mask)
    return [y for y, asked in zip(found, mask) if asked]


def ordered(x, order):
    """The transpose of a permutation."""
    return x.permute([order.index(d) for d in range(len(order))])


def attention(q, k, v, orders, causal):
    """Attention, and what its derivative needs of it. orders: of q, k, v and the result, which dims are batch, heads,
    positions and width."""
    given = [x.permute(order) for x, order in zip((q, k, v), orders)]
    if q.device.type == "cpu":
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*given, 0.0, causal, scale=1.0)
    else:
        out, sums = functional.scaled_dot_product_attention(*given, is_causal=causal, scale=1.0), q.new_zeros(1)
    return ordered(out, orders[3]), sums


def attention_backward(dout, q, k, v, out, sums, orders, causal):
    """The derivatives of attention by q, k and v: on a CPU of what is kept, else it is computed once more."""
    dout, out = (x.permute(orders[3]) for x in (dout, out))
    given = [x.permute(order) for x, order in zip((q, k, v), orders)]
    if q.device.type == "cpu":
        kept = (dout, *given, out, sums, 0.0, causal)
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*kept, scale=1.0)
    else:
        again = functools.partial(functional.scaled_dot_product_attention, is_causal=causal, scale=1.0)
        found = torch.func.vjp(again, *given)[1](dout)
    return [ordered(x, order) for x, order in zip(found, orders)]


def cross_entropies(z, targets, inside):
    """The loss of each position, and the logarithms of probabilities. inside: whether all targets are places in the
    last dim of z; others pick nothing."""
    logs = torch.log_softmax(z, -1)
    if inside:
        return -logs.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1), logs
    index, there = rows(targets, (), z.shape[-1], 0)
    index, there = index.unsqueeze(-1), there.unsqueeze(-1)
    picked = logs.gather(-1, index)
    shifted = z.gather(-1, index) - z.amax(-1, keepdim=True)  # so that the sum of exponentials is all of the loss
    return -torch.where(there, picked, picked - shifted).squeeze(-1), logs


def cross_entropies_backward(g, logs, targets):
    """g times the probabilities, less g where the target is."""
    index, there = rows(targets, (), logs.shape[-1], 0)
    less = torch.scatter_add(logs.exp(), -1, index.unsqueeze(-1), -there.unsqueeze(-1).to(logs.dtype))
    return less * g.unsqueeze(-1)


def top_k(x, k, dim):
    """The k largest along a dim, and where they are; of equal ones the first comes first."""
    values, places = x.sort(dim=dim, descending=True, stable=True)
    return values.narrow(dim, 0, k), places.narrow(dim, 0, k).to(torch.int32)


def fold(x, dim, size, low, stride, dilation):
    """The transpose of a window: adds up windows (dim: their places, the last one: within them)."""
    n, kernel = x.shape[dim], x.shape[-1]
    length = max((n - 1) * stride + (kernel - 1) * dilation + 1, low + size)
    out = x.new_zeros(resized(x[..., 0], dim, length))
    before = (slice(None),) * dim
    for j in range(kernel):
        out[(*before, slice(j * dilation, j * dilation + (n - 1) * stride + 1, stride))] += x[..., j]
    return out.narrow(dim, low, size)


def rows(index, batched, count, begin):
    """For each element of an index the row that it names (of tables as the matched dims number them), and whether it is
    there at all."""
    row = index.long() - begin
    inside = (row >= 0) & (row < count)
    row = row.clamp(0, count - 1)
    for dim in reversed(batched):
        many = index.shape[dim]
        along = torch.arange(many, device=index.device).view([-1 if d == dim else 1 for d in range(index.dim())])
        row, count = row + along * count, count * many
    return row, inside


def take(table, index, batched, begin):
    """Rows of a table (matched dims first, then the rows) by number; zeros for those that are not here."""
    lead = len(batched) + 1
    if lead == 1 and table.dim() == 2 and begin == 0:
        row, inside = rows(index, batched, table.shape[0], 0)
        wide = table.float() if table.dtype in (torch.bfloat16, torch.float16) else table  # so is the gradient's sum
        return functional.embedding(row, wide).to(table.dtype) * inside.unsqueeze(-1)
    row, inside = rows(index, batched, table.shape[lead - 1], begin)
    found = table.flatten(0, lead - 1)[row]
    inside = inside.view(*inside.shape, *(1,) * (found.dim() - inside.dim()))
    return torch.where(inside, found, torch.zeros((), dtype=found.dtype, device=found.device))


def scatter_add(x, index, shape, batched, begin):
    """Adds rows up by number, into a table of this shape (matched dims first, then the rows)."""
    lead = len(batched) + 1
    row, inside = rows(index, batched, shape[lead - 1], begin)
    inside = inside.view(*inside.shape, *(1,) * (x.dim() - inside.dim()))
    x = torch.where(inside, x, torch.zeros((), dtype=x.dtype, device=x.device))
    table = x.new_zeros((math.prod(shape[:lead]), *shape[lead:]))
    return table.index_add(0, row.flatten(), x.flatten(0, index.dim() - 1)).view(shape)


def scatter(table, x, index, batched, begin):
    """The table with rows replaced; of those named twice the last counts."""
    lead = len(batched) + 1
    row, inside = rows(index, batched, table.shape[lead - 1], begin)
    flat = table.flatten(0, lead - 1)
    place = torch.where(inside, torch.arange(row.numel(), device=row.device).view(row.shape), -1)
    last = torch.full((flat.shape[0],), -1, device=row.device).scatter_reduce(0, row.flatten(), place.flatten(), "amax")
    given = x.flatten(0, index.dim() - 1)[last.clamp(min=0)]
    return torch.where((last >= 0).view(-1, *(1,) * (flat.dim() - 1)), given, flat).view(table.shape)


def mixed(x):
    """The end of splitmix64, on the bits of int64."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def word(x):
    """A number as int64 of the same bits."""
    return x.long() if torch.is_tensor(x) else (x + 2**63) % 2**64 - 2**63


def hashed(key, *words):
    """Words mixed into a key, one after the other."""
    key = key.long() if torch.is_tensor(key) else torch.full((), word(key), dtype=torch.int64, device=DEVICE)
    for w in words:
        key = mixed((key + word(w)) * -0x61C8864680B583EB - 0x6B2FB644ECCEEE15)
    return key


def fractions(bits, digits):
    """Uniform numbers in [0, 1) of so many binary digits, in f64."""
    return ((bits >> (64 - digits)) & (2**digits - 1)).double() * 2.0**-digits


def places(shape, starts, whole):
    """The number of each element of a piece among all of the whole tensor."""
    place, stride = torch.zeros((1,) * len(shape), dtype=torch.int64, device=DEVICE), 1
    for dim in reversed(range(len(shape))):
        along = torch.arange(shape[dim], device=DEVICE) + starts[dim]
        place = place + along.view([-1 if d == dim else 1 for d in range(len(shape))]) * stride
        stride *= whole[dim]
    return place


def uniform(key, place, dtype):
    """Uniform numbers in [0, 1): a function of the key and the place in the whole tensor."""
    digits = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}[dtype]
    return fractions(hashed(key, place), digits).to(dtype)


def normal(key, place, dtype):
    """Standard normal numbers, as Box and Muller make them."""
    bits = hashed(key, place)
    radius = torch.sqrt(-2 * torch.log1p(-fractions(bits, 53)))
    return (radius * torch.cos(2 * math.pi * fractions(hashed(bits, 1), 53))).to(dtype)


def initial(kind, arguments, name, whole, starts, shape, dtype):
    """What a buffer begins with: a function of the seed, its name and the place in the whole tensor."""
    if kind in ("zeros", "ones", "constant"):
        value = {"zeros": 0.0, "ones": 1.0}.get(kind, arguments[0] if arguments else 0.0)
        return torch.full(shape, value, dtype=dtype, device=DEVICE)
    key, place = hashed(SEED, name), places(shape, starts, whole)
    first = fractions(hashed(key, place, 0), 53)
    if kind == "uniform":
        low, high = arguments or (0.0, 1.0)
        return (low + (high - low) * first).to(dtype)
    second = fractions(hashed(key, place, 1), 53)
    std = arguments[0] if arguments else 1.0
    return (std * torch.sqrt(-2 * torch.log1p(-first)) * torch.cos(2 * math.pi * second)).to(dtype)
'''

# --- messages -----------------------------------------------------------------------------------------

_MESSAGES = '''
def members(axes):
    """The process group along axes, and in it the place of each piece."""
    return GROUPS[axes]


def wide(x):
    """Sums of 16 bits are made in 32 and rounded once."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def all_reduce(x, fn, axes):
    """Sum or maximum over the devices along axes."""
    group, _ = members(axes)
    return funcol.wait_tensor(funcol.all_reduce(wide(x).contiguous(), fn, group)).to(x.dtype)


def joined(pieces, dim, size, axes):
    """Pieces in a row, cut to a size along the dim; so are the parts that are pieces of their own."""
    if len(axes) > 1:
        each, rest = len(pieces) // SIZES[axes[0]], -(-size // SIZES[axes[0]])
        pieces = [joined(pieces[p : p + each], dim, rest, axes[1:]) for p in range(0, len(pieces), each)]
    return torch.cat(pieces, dim).narrow(dim, 0, size)


def all_gather(x, dim, size, axes):
    """All pieces in a row, cut to a size along the dim."""
    group, order = members(axes)
    found = funcol.wait_tensor(all_gather_single(x.contiguous(), 0, group)).chunk(len(order))
    return joined([found[p] for p in order], dim, size, axes)


def parted(x, dim, axes):
    """The pieces that axes make along a dim, of equal length; zeros where nothing is left."""
    pieces = [x]
    for axis in axes:
        size = -(-pieces[0].shape[dim] // SIZES[axis])
        pieces = [y for part in pieces for y in filled(part, dim, size * SIZES[axis]).split(size, dim)]
    return pieces


def parts(x, dim, axes):
    """Pieces for each member of a group, in its order, one after the other."""
    _, order = members(axes)
    pieces = parted(x, dim, axes)
    return torch.cat([pieces[order.index(member)] for member in range(len(order))])


def reduce_scatter(x, fn, dim, axes):
    """The own piece of a sum or maximum over the devices along axes."""
    group, _ = members(axes)
    mine = parts(wide(x), dim, axes).contiguous()
    return funcol.wait_tensor(reduce_scatter_single(mine, fn, 0, group)).to(x.dtype)


def all_to_all(x, dim, whole, cut_dim, axes):
    """From pieces of one dim to pieces of another."""
    group, order = members(axes)
    found = funcol.wait_tensor(funcol.all_to_all_single(parts(x, cut_dim, axes).contiguous(), None, None, group))
    found = found.chunk(len(order))
    return joined([found[p] for p in order], dim, whole, axes)


def shard(x, dim, axes, i=0):
    """The own piece of what every device has."""
    low, used, size = span(x.shape[dim], axes, i)
    return filled(x.narrow(dim, min(low, x.shape[dim]), used), dim, size)


def only_first(x, axes, i=0):
    """Zeros on all devices, and in all micro-batches, but the first."""
    return x if piece(axes, i) == 0 else torch.zeros_like(x)


def mask_pad(x, dim, whole, value, axes, i=0):
    """Elements beyond the whole become a value."""
    _, used, _ = span(whole, axes, i)
    rest = torch.full(resized(x, dim, x.shape[dim] - used), value, dtype=x.dtype, device=x.device)
    return torch.cat((x.narrow(dim, 0, used), rest), dim)


def meet(a, b):
    """What two ranges have in common."""
    low, high = max(a[0], b[0]), min(a[1], b[1])
    return low, max(low, high)


def spans(whole, axes):
    """From where to behind where each piece has elements of a dim, in the order of the pieces."""
    found = [(0, whole)]
    size = whole
    for axis in axes:
        size = -(-size // SIZES[axis])
        found = [(low + p * size, min(high, low + (p + 1) * size)) for low, high in found for p in range(SIZES[axis])]
    return [(low, max(low, high)) for low, high in found]


def exchange(x, dim, start, held, needed, axes):
    """What this device needs of everybody's elements: (where along the dim, elements) of each. held, needed: the ranges
    that each device has, and takes; start: where its own elements begin."""
    group, order = members(axes)
    me, count = piece(axes), len(order)
    by_member = [order.index(m) for m in range(count)]
    gives = [meet(held[me], needed[p]) for p in by_member]
    gets = [meet(needed[me], held[p]) for p in by_member]
    moved = x.movedim(dim, 0)
    sent = torch.cat([moved[low - start : high - start] for low, high in gives]).contiguous()
    lengths = [[high - low for low, high in spans] for spans in (gets, gives)]
    found = funcol.wait_tensor(funcol.all_to_all_single(sent, *lengths, group)).split(lengths[0])
    return [(where, part.movedim(0, dim)) for where, part in zip(gets, found)]


def placed(found, x, dim, start, size, fill):
    """Elements where they belong, from position start on; fill elsewhere."""
    out = torch.full(resized(x, dim, size), fill, dtype=x.dtype, device=x.device)
    for (low, high), part in found:
        if high > low:
            out = out.slice_scatter(part, dim, low - start, high - start)
    return out


def halo(x, dim, left, right, fill, whole, axes):
    """x with borders of the neighbours' elements."""
    me, held = piece(axes), spans(whole, axes)
    needed = [(low - left, low + x.shape[dim] + right) for low, _ in held]
    found = exchange(x, dim, held[me][0], held, needed, axes)
    return placed(found, x, dim, needed[me][0], left + x.shape[dim] + right, fill)


def halo_add(x, dim, left, right, whole, axes):
    """The transpose of halo: borders go back and are added up."""
    me, needed, size = piece(axes), spans(whole, axes), x.shape[dim] - left - right
    held = [(low - left, low + size + right) for low, _ in needed]
    found = exchange(x, dim, held[me][0], held, needed, axes)
    return sum(placed([one], wide(x), dim, needed[me][0], size, 0) for one in found).to(x.dtype)


def shift_across(x, dim, by, fill, whole, axes):
    """Every element so many places further along the dim, from piece to piece."""
    me, held = piece(axes), spans(whole, axes)
    needed = [(low - by, high - by) for low, high in held]
    found = exchange(x, dim, held[me][0], held, needed, axes)
    return placed(found, x, dim, needed[me][0], x.shape[dim], fill)


def stage_reduce(x, fn, groups):
    """Sum or maximum over the devices of the same place in several groups."""
    return funcol.wait_tensor(funcol.all_reduce(wide(x).contiguous(), fn, BETWEEN[groups])).to(x.dtype)
'''


def _functions(text: str) -> dict[str, str]:
    parts = re.split(r"\n\n\n(?=def )", text.strip())
    return {part[4 : part.index("(")]: part.rstrip() for part in parts}


FUNCTIONS: dict[str, str] = _functions(_LOCAL + "\n\n" + _MESSAGES)
"""By name, in the order in which a file has them."""


def library(wanted: Collection[str]) -> list[str]:
    """The functions of these names and all that they call."""
    found: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [w for w in set(re.findall(r"\b([a-z_]+)\(", FUNCTIONS[name])) if w in FUNCTIONS]
    return [text for name, text in FUNCTIONS.items() if name in found]
