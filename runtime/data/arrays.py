"""`arrays(…)`, `raw(path, …)`, `tokens(path, …)`: examples in files of any size, of which a step reads its pieces."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from compiler.model import DataSpec
from compiler.program import InputDecl
from compiler.readers import stored as stored_as
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.data.headers import npy, raw, safetensors
from runtime.data.pieces import Examples, Tokens, Windows
from runtime.data.reader import Reader
from runtime.data.shuffle import chosen
from runtime.data.stored import DataFile, Stored
from runtime.readable import Readable


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows of arrays that are alike in number, one array per input."""

    inputs: tuple[InputDecl, ...]
    arrays: Mapping[str, Stored]
    size: int
    total: int
    shuffle: bool

    def batch(self, seed: int, step: int) -> dict[str, Readable]:
        rows = chosen(step, self.size, self.total, seed, self.shuffle)
        return {i.name: Examples(i, self.arrays[i.name], rows) for i in self.inputs}


def open_arrays(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Inputs `[b, …]`: tensors of a safetensors file, or `.npy` files, with an example in each row.

    Named arguments: input = "tensor" (of the file that is named first; its own name if left out), or input = "file".
    `shuffle`: epochs in random orders (true if left out), or in that of the file.
    """
    named, arrays = dict(spec.options), {}
    files: dict[str, DataFile] = {}
    for i in inputs:
        path = spec.path if spec.path is not None else str(named[i.name])
        if path not in files:
            files[path] = DataFile.find(path, spec.folder, spec.span)
        tensor = str(named.get(i.name, i.name)) if spec.path is not None else i.name
        arrays[i.name] = npy(files[path]) if path.endswith(".npy") else safetensors(files[path], tensor)
    return _samples(spec, inputs, arrays)


def open_raw(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Inputs `[b, …]`: a file of records that follow each other, of which each has an example of each input.

    Named arguments, in the order of a record: input = "uint8" or "uint8[3, 32, 32]", the numbers in the file. `offset`:
    bytes before the first record; `shuffle`: as of `arrays`.
    """
    types = {i.name: i.type for i in inputs}
    named = [(name, stored_as(value, types[name])) for name, value in spec.options if name in types]
    fields = {name: kind for name, kind in named if kind is not None}
    offset = dict(spec.options).get("offset", 0) if "offset" not in types else 0
    found = raw(DataFile.find(str(spec.path), spec.folder, spec.span), offset, list(fields.values()))
    return _samples(spec, inputs, dict(zip(fields, found, strict=True)))


def _samples(spec: DataSpec, inputs: tuple[InputDecl, ...], arrays: Mapping[str, Stored]) -> Reader:
    counts: dict[int, str] = {}
    for i in inputs:
        array, want = arrays[i.name], i.type.shape[1:]
        if not array.shape or array.shape[1:] != want:
            got = " x ".join(map(str, array.shape)) or "one number"
            message = f"the input `{i.name}` takes rows of {' x '.join(map(str, want)) or 'one number'}, "
            raise fail("E0706", f"{message}`{array.shown}` is {got}", spec.span)
        counts.setdefault(array.shape[0], array.shown)
    if len(counts) > 1:
        (few, one), (many, other) = sorted(counts.items())[:2]
        raise fail("E0706", f"`{one}` has {few} rows, `{other}` {many}", spec.span, help="a row is an example")
    (total,) = counts
    if not total:
        raise fail("E0707", f"`{next(iter(counts.values()))}` has no rows", spec.span)
    return Samples(inputs, arrays, inputs[0].type.shape[0], total, _shuffled(spec, inputs))


def _shuffled(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> bool:
    own = any(i.name == "shuffle" for i in inputs) and spec.reader != "tokens"
    return True if own else bool(dict(spec.options).get("shuffle", True))


@dataclass(frozen=True, slots=True)
class TokenFile:
    """Windows of a row of tokens, one behind the other; the second input is the first one moved by one token."""

    inputs: tuple[InputDecl, ...]
    stored: Stored
    total: int
    shuffle: bool

    def batch(self, seed: int, step: int) -> dict[str, Readable]:
        size, length = self.inputs[0].type.shape
        windows = Windows(self.stored, chosen(step, size, self.total, seed, self.shuffle) * length)
        return {i.name: Tokens(i, windows, ahead) for ahead, i in enumerate(self.inputs)}


def open_tokens(spec: DataSpec, inputs: tuple[InputDecl, ...]) -> Reader:
    """Inputs: tokens and, if there is a second one, targets, both `[b, s]`. The file is a row of integers: raw
    (`dtype`, uint16 if left out, from byte `offset` on), `.npy`, or the tensor `tensor` (`tokens` if left out) of a
    safetensors file. `shuffle`: the windows of an epoch in random order (true if left out), or one behind the other.
    """
    options, length = dict(spec.options), inputs[0].type.shape[1]
    file = DataFile.find(str(spec.path), spec.folder, spec.span)
    if file.path.endswith(".npy"):
        found = npy(file)
    elif file.path.endswith(".safetensors"):
        found = safetensors(file, options.get("tensor", "tokens"))
    else:
        (found,) = raw(file, options.get("offset", 0), [(options.get("dtype", "uint16"), ())])
    if len(found.shape) != 1 or found.dtype.strip("<>|=")[0] not in "iu":
        shown = " x ".join(map(str, found.shape)) or "one number"
        message = f"`{found.shown}` is {shown} of {found.dtype.strip('<>|=')}, `tokens` reads a row of integers"
        raise fail("E0706", message, spec.span)
    total = (prod(found.shape) - 1) // length
    if total < 1:
        message = f"`{found.shown}` has {found.shape[0]} tokens, a sequence of {length} needs {length + 1}"
        raise fail("E0707", message, spec.span, help="take a longer text or a shorter sequence")
    return TokenFile(inputs, found, total, bool(options.get("shuffle", True)))
