"""The functions of exported files that stay on a device, as text."""

LOCAL = '''
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


def spread(q, k, v):
    """Queries that share a key (in a dim behind the heads) as heads of their own, with keys and values for each."""
    if q.dim() == 4:
        return q, k, v
    return q.flatten(1, 2), *(x.repeat_interleave(q.shape[2], 1) for x in (k, v))


def attention(q, k, v, orders, causal):
    """Attention, and what its derivative needs of it. orders: of q, k, v and the result, which dims are batch, heads
    (and those that share a key), positions and width."""
    q, k, v = (x.permute(order) for x, order in zip((q, k, v), orders))
    given, heads = spread(q, k, v), q.shape[1:-2]
    if q.device.type == "cpu":
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*given, 0.0, causal, scale=1.0)
    else:
        out, sums = functional.scaled_dot_product_attention(*given, is_causal=causal, scale=1.0), q.new_zeros(1)
    return ordered(out.unflatten(1, heads), orders[3]), sums


def attention_backward(dout, q, k, v, out, sums, orders, causal):
    """The derivatives of attention by q, k and v: on a CPU of what is kept, else it is computed once more."""
    dout, out = (x.permute(orders[3]).flatten(1, -3) for x in (dout, out))
    q, k, v = (x.permute(order) for x, order in zip((q, k, v), orders))
    given, heads = spread(q, k, v), q.shape[1:-2]
    if q.device.type == "cpu":
        kept = (dout, *given, out, sums, 0.0, causal)
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*kept, scale=1.0)
    else:
        again = functools.partial(functional.scaled_dot_product_attention, is_causal=causal, scale=1.0)
        found = torch.func.vjp(again, *given)[1](dout)
    dq, dk, dv = (x.unflatten(1, heads) for x in found)
    if q.dim() == 5:
        dk, dv = dk.sum(2), dv.sum(2)
    return [ordered(x, order) for x, order in zip((dq, dk, dv), orders)]


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


def unique_rows(lists, shape, dim, begin, slots, size, whole):
    """Each number of lists (rows, by dims of their numbers first, and numbers) once, with the sum of its rows, in the
    slots that are here (shape: of these and of a row; begin: the first; dim: where they stand in the result). Each part
    of the table, of `size` rows of `whole`, has so many `slots`; its numbers ascend, and those that are over are -1."""
    first, count = begin // slots * size, shape[0]
    last = min(first + count // slots * size, whole)
    keys = torch.cat([index.flatten() for _, index in lists]).long()
    x = torch.cat([x.reshape(-1, math.prod(shape[1:])) for x, _ in lists])
    keys, order = torch.where((keys >= first) & (keys < last), keys, whole).sort(stable=True)
    there, new = keys < whole, torch.cat((torch.ones_like(keys[:1]), (keys[1:] != keys[:-1]).long()))
    number, owner = new.cumsum(0), (keys - first) // size  # which of the numbers it is, and of which part
    place = owner * slots + number - number[torch.searchsorted(owner, owner)]
    place = torch.where(there, place, count)  # behind the slots
    wide = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
    added = x.new_zeros((count + 1, x.shape[1]), dtype=wide).index_add(0, place, x[order].to(wide))
    numbers = torch.full((count + 1,), -1, device=x.device).scatter(0, place, keys)
    return added[:count].to(x.dtype).view(shape).movedim(0, dim), numbers[:count].to(torch.int32)


def read_rows(table, numbers, dim, begin):
    """Rows of a table along a dim by number; zeros for those that are not here."""
    row, inside = rows(numbers, (), table.shape[dim], begin)
    inside = inside.view([-1 if d == dim else 1 for d in range(table.dim())])
    return torch.where(inside, table.index_select(dim, row), torch.zeros((), dtype=table.dtype, device=table.device))


def write_rows(table, x, numbers, dim, begin):
    """The table with rows along a dim replaced, each number at most once; those that are not here go nowhere."""
    row, inside = rows(numbers, (), table.shape[dim], begin)
    row = torch.where(inside, row, table.shape[dim])  # one behind the table
    longer = torch.cat((table, table.new_zeros(resized(table, dim, 1))), dim)
    return longer.index_copy(dim, row, x).narrow(dim, 0, table.shape[dim])


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
    if kind == "bits":
        return (hashed(key, place, 0) >> 32 & 0xFFFFFFFF & int(arguments[0])).to(dtype)
    first = fractions(hashed(key, place, 0), 53)
    if kind == "uniform":
        low, high = arguments or (0.0, 1.0)
        return (low + (high - low) * first).to(dtype)
    second = fractions(hashed(key, place, 1), 53)
    std = arguments[0] if arguments else 1.0
    return (std * torch.sqrt(-2 * torch.log1p(-first)) * torch.cos(2 * math.pi * second)).to(dtype)


def in_zigzag(at, length, parts):
    """Which positions lie at these places of the zig-zag order of blocks of a length."""
    pair = at // length // 2
    return torch.where(at // length % 2 == 0, pair, 2 * parts - 1 - pair) * length + at % length


def unpacked(x, dim, per, bits):
    """The numbers (from 0 on) that blocks of `per` words have along a dim, least bits first."""
    blocks, found = x.unflatten(dim, (-1, per)).unbind(dim + 1), []
    for i in range(32 * per // bits):
        word, bit = divmod(bits * i, 32)
        number = blocks[word] >> bit
        if bit + bits > 32:
            number = number | blocks[word + 1] << (32 - bit)
        found.append(number & (1 << bits) - 1)
    return torch.stack(found, dim + 1).flatten(dim, dim + 1)


def packed(x, dim, per, bits):
    """Blocks of `per` words in which whole numbers lie along a dim: what `unpacked` reads."""
    found = [0] * per
    for i, number in enumerate(x.long().unflatten(dim, (-1, 32 * per // bits)).unbind(dim + 1)):
        word, bit = divmod(bits * i, 32)
        found[word] = found[word] | number << bit
        if bit + bits > 32:
            found[word + 1] = found[word + 1] | number >> (32 - bit)
    return torch.stack(found, dim + 1).flatten(dim, dim + 1) & 0xFFFFFFFF


def e4m3(q):
    """The numbers that bits are as fp8 e4m3fn."""
    exponent, mantissa = q >> 3 & 15, (q & 7).double()
    size = torch.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent.double() - 10))
    return torch.where(q & 127 == 127, math.nan, torch.where(q > 127, -size, size))


def dequantised(x, dim, per, bits, scale, zero, order):
    """`(q - zero) * scale`, of numbers that are packed along a dim; zero: a tensor, a number or None (fp8).

    order: the dims of the scales in those of the result, None where they have none."""
    q = unpacked(x, dim, per, bits)
    shape, coarse, fine = q.shape, [], []
    for size, at in zip(shape, order):
        count = 1 if at is None else scale.shape[at]
        coarse += [count, 1]
        fine += [count, size // count]
    own = [at for at in order if at is not None]
    wide = torch.float64 if scale.dtype == torch.float64 else torch.float32

    def spread(y):
        return y.permute(own).reshape(coarse).to(wide)

    number = (e4m3(q) if zero is None else q).to(wide).reshape(fine)
    if zero is not None:
        number = number - (spread(zero) if torch.is_tensor(zero) else zero)
    return (number * spread(scale)).reshape(shape).to(scale.dtype)


def expanded_twos(x, dim, kept):
    """Of each four elements along a dim the two whose bits are set, in order, and zeros."""
    fours = unpacked(x, dim, 1, 1).unflatten(dim, (-1, 4))
    rank = (fours.cumsum(dim + 1) - 1).clamp(0, 1)
    found = torch.gather(kept.unflatten(dim, (-1, 2)), dim + 1, rank) * fours.to(kept.dtype)
    return found.flatten(dim, dim + 1)


def zigzag(x, dim, parts, back):
    """Block i and block 2 parts - 1 - i behind each other, or `back` in their own order."""
    if back:
        first, last = x.unflatten(dim, (parts, 2, -1)).unbind(dim + 1)
        return torch.cat([first, last.flip(dim)], dim).flatten(dim, dim + 1)
    first, last = x.unflatten(dim, (2 * parts, -1)).split(parts, dim)
    return torch.stack([first, last.flip(dim)], dim + 1).flatten(dim, dim + 2)
'''
