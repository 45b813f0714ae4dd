"""The functions of exported files that send and receive, and what they need of pieces, as text."""

MESSAGES = '''
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


def shift_around(x, dim, by, whole, axes):
    """As shift_across, where what leaves at one end comes in at the other."""
    me, held = piece(axes), spans(whole, axes)
    needed = [(low - by % whole, high - by % whole) for low, high in held]
    before = [(low - whole, high - whole) for low, high in held]
    found = exchange(x, dim, held[me][0], held, needed, axes) + exchange(x, dim, before[me][0], before, needed, axes)
    return placed(found, x, dim, needed[me][0], x.shape[dim], 0)


def zigzag_sources(parts, back, whole, low, high):
    """Where elements low…high come from as the order of 2 parts blocks changes: (to, from, how many)."""
    length, found = whole // (2 * parts), []
    for block in range(low // length, -(-high // length)):
        if back:
            there = 2 * block if block < parts else 2 * (2 * parts - 1 - block) + 1
        else:
            there = 2 * parts - 1 - block // 2 if block % 2 else block // 2
        start, stop = max(low, block * length), min(high, (block + 1) * length)
        if start < stop:
            found.append((start, there * length + start - block * length, stop - start))
    return found


def zigzag_across(x, dim, parts, back, whole, axes):
    """Blocks to whoever has them in zig-zag order, or `back` in their own."""
    me, held = piece(axes), spans(whole, axes)
    out = torch.zeros_like(x)
    group, order = members(axes)
    by_member = [order.index(m) for m in range(len(order))]

    def shared(to, of):
        """What piece `to` gets of piece `of`: (to, from, how many)."""
        found = []
        for at, there, n in zigzag_sources(parts, back, whole, *held[to]):
            low, high = meet((there, there + n), held[of])
            if low < high:
                found.append((at + low - there, low, high - low))
        return found

    moved = x.movedim(dim, 0)
    gives, gets = [shared(p, me) for p in by_member], [shared(me, p) for p in by_member]
    start = held[me][0]
    sent = torch.cat([moved[:0], *(moved[low - start : low - start + n] for of in gives for _, low, n in of)])
    lengths = [[sum(n for _, _, n in of) for of in spans_] for spans_ in (gets, gives)]
    found = funcol.wait_tensor(funcol.all_to_all_single(sent.contiguous(), *lengths, group)).split(lengths[0])
    for of, part in zip(gets, found):
        for (at, _, n), rows in zip(of, part.split([n for _, _, n in of]) if of else ()):
            out = out.slice_scatter(rows.movedim(0, dim), dim, at - start, at - start + n)
    return out


def stage_reduce(x, fn, groups):
    """Sum or maximum over the devices of the same place in several groups."""
    return funcol.wait_tensor(funcol.all_reduce(wide(x).contiguous(), fn, BETWEEN[groups])).to(x.dtype)
'''
