"""What `data READER(…)` may say: the readers, their arguments, and the inputs that they can fill.

How files are read is `runtime/data/`; what is wrong with a job's `data` without a look at them is told here, when the
file is checked. To add a reader: a `Form` in `FORMS` below, and how it is opened in `runtime/data/__init__.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from compiler.graph import Type
from compiler.model import DataSpec
from dsl.data import dataclass
from dsl.diagnostics import did_you_mean, fail
from dsl.units import BYTES, Quantity

Inputs = Mapping[str, Type]
"""The model's inputs by name, in their order."""

STORED = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "f16": 2, "bf16": 2, "f32": 4, "f64": 8,
}  # fmt: skip
"""What numbers may be in files that are read piece by piece, little-endian, and the bytes of one."""

_FIELD = re.compile(r"(\w+)(?:\[([\d, ]*)\])?")


@dataclass(frozen=True, slots=True)
class Option:
    """A named argument: what it is, in words, and whether a value is that."""

    what: str
    fits: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(*words: str) -> Option:
    return Option(" or ".join(f'"{w}"' for w in words), lambda v: isinstance(v, str) and v in words)


_FLAG = Option("true or false", lambda v: isinstance(v, bool))
_LIMIT = Option(
    "an amount of data, such as `1 GiB`", lambda v: isinstance(v, Quantity) and v.dimension == BYTES and v.value >= 1
)
_TOP = Option("the largest value of a pixel: a number above 0", lambda v: type(v) in (int, float) and v > 0)
_OFFSET = Option("a number of bytes: an integer from 0 on", lambda v: _is_integer(v) and 0 <= v < 2**63)
_TEXT = Option("a text in quotes", lambda v: isinstance(v, str))


@dataclass(frozen=True, slots=True)
class Form:
    """What a reader takes. path: whether its first argument, a file, is needed (None: it may be left out; False: it has
    none). named: an argument may be called like an input, and says in quotes where its data are. check: what else may
    be wrong, told as (message, help); fits: the same, of the model's inputs."""

    example: str
    path: bool | None = True
    options: Mapping[str, Option] = field(default_factory=dict)
    named: bool = False
    check: Callable[[DataSpec, Inputs], tuple[str, str] | None] = lambda spec, inputs: None
    fits: Callable[[DataSpec, Inputs], tuple[str, str] | None] = lambda spec, inputs: None


def paths(spec: DataSpec) -> tuple[str, ...]:
    """The files that a job's data are read from."""
    if spec.path is not None:
        return (spec.path,)
    form = FORMS.get(spec.reader)
    if form is None or form.path is not None:
        return ()
    return tuple(dict.fromkeys(v for n, v in spec.options if n not in form.options and isinstance(v, str)))


def check_data(spec: DataSpec, inputs: Inputs) -> None:
    """Raise E0705 for a reader that there is not, or arguments that it does not take; E0706 for inputs that it cannot
    fill, as far as that does not hang on what is in the files."""
    if spec.reader not in FORMS:
        help = did_you_mean(spec.reader, FORMS) or f"there are {', '.join(FORMS)}"
        raise fail("E0705", f"there is no data reader `{spec.reader}`", spec.span, help=help)
    form = FORMS[spec.reader]
    _check_path(spec, form)
    for name, value in spec.options:
        _check_option(spec, form, name, value, inputs)
    for code, check in (("E0705", form.check), ("E0706", form.fits)):
        if (found := check(spec, inputs)) is not None:
            raise fail(code, found[0], spec.span, help=found[1])


def _check_path(spec: DataSpec, form: Form) -> None:
    count, most = len(spec.args), int(form.path is not False)
    if count > most:
        message = f"`{spec.reader}` takes {most} unnamed argument{'s' * (most != 1)}, got {count}"
        raise fail("E0705", message, spec.span_of(most), help=f"`data {form.example}`")
    if (count or form.path) and spec.path is None and most:
        at = spec.span_of(0) if count else spec.span
        raise fail("E0705", f"`{spec.reader}` needs the path of a file", at, help=f"`data {form.example}`")


def _check_option(spec: DataSpec, form: Form, name: str, value: Any, inputs: Inputs) -> None:
    if form.named and name in inputs:  # an input that is called like an option, too, is meant
        option = _TEXT
    elif name in form.options:
        option = form.options[name]
    else:
        known = [*form.options, *(inputs if form.named else ())]
        help = did_you_mean(name, known) or (f"there are {', '.join(known)}" if known else "it has none")
        raise fail("E0705", f"`{spec.reader}` has no option `{name}`", spec.span_of(name), help=help)
    if not option.fits(value):
        raise fail("E0705", f"`{name}` of `{spec.reader}` is {option.what}", spec.span_of(name))


# --- inputs ---------------------------------------------------------------------------------------------------------


def batch_size(inputs: Inputs) -> int | None:
    """The size of the first dim of all inputs; None where they have none in common."""
    sizes = {t.shape[0] if t.dims else 0 for t in inputs.values()}
    return next(iter(sizes)) if len(sizes) == 1 else None


def _listed(inputs: Inputs) -> str:
    return ", ".join(f"{name}: {type}" for name, type in inputs.items()) or "none"


def _pairs(spec: DataSpec, inputs: Inputs) -> tuple[str, str] | None:
    """Tokens and, if there is a second input, targets."""
    shapes = {t.shape for t in inputs.values()}
    if (
        1 <= len(inputs) <= 2
        and len(shapes) == 1
        and all(_is_integers(t) and len(t.dims) == 2 for t in inputs.values())
    ):
        return None
    message = f"`{spec.reader}` gives tokens and targets, the model's inputs are {_listed(inputs)}"
    return message, "`input tokens, targets : int32[b, s] in 0..v`"


def _is_integers(type: Type) -> bool:
    return not type.is_float and type.dtype != "bool"


def _samples(spec: DataSpec, inputs: Inputs) -> tuple[str, str] | None:
    if batch_size(inputs):
        return None
    return "all inputs need the batch as their first dim", "`input x : int32[b] in 0..n`"


def _images(spec: DataSpec, inputs: Inputs) -> tuple[str, str] | None:
    floats = [t for t in inputs.values() if t.is_float]
    if len(floats) == 1 and len(inputs) <= 2:
        return _samples(spec, inputs)
    message = f"`images` gives an image and a label, the model's inputs are {_listed(inputs)}"
    return message, "`input image : f32[b, y, x, c]` and `input label : int32[b] in 0..10`"


def _sources(spec: DataSpec, inputs: Inputs) -> tuple[str, str] | None:
    """Of `arrays`: where each input is."""
    form, named = FORMS["arrays"], dict(spec.options)
    if spec.path is not None:
        if spec.path.endswith(".safetensors") or (spec.path.endswith(".npy") and len(inputs) == 1):
            return None
        return "`arrays` takes a `.safetensors` file, or a `.npy` file for each input", f"`data {form.example}`"
    for name in inputs:
        path = named.get(name, "")
        if not path.endswith((".npy", ".safetensors")):
            message = f"`arrays` needs a `.npy` or `.safetensors` file for the input `{name}`"
            return message, f'`data arrays({name} = "data/{name}.npy")`, or one `.safetensors` file for all'
    return None


def stored(text: str, type: Type) -> tuple[str, tuple[int, ...]] | None:
    """The type of numbers and the shape of one example that `uint8`, `uint8[3, 32, 32]` means for an input; None where
    it means none."""
    match = _FIELD.fullmatch(text.replace(" ", ""))
    if match is None or match[1] not in STORED:
        return None
    if match[2] is None:
        return match[1], type.shape[1:]
    sizes = [s for s in match[2].split(",") if s]
    if any(len(s) > 18 for s in sizes):
        return None
    return match[1], tuple(map(int, sizes))


def _records(spec: DataSpec, inputs: Inputs) -> tuple[str, str] | None:
    """Of `raw`: the fields of a record."""
    named = dict(spec.options)
    for name, type in inputs.items():
        found = stored(named[name], type) if name in named else None
        if found is None:
            message = f"`raw` needs the type of the numbers of the input `{name}`"
            return message, f'`data raw("data/file.bin", {name} = "f32")`; there are {", ".join(STORED)}'
        if found[1] != type.shape[1:]:
            want = " x ".join(map(str, type.shape[1:])) or "one number"
            got = " x ".join(map(str, found[1])) or "one number"
            return f"the input `{name}` takes {want} per example, `raw` is told of {got}", f'`{name} = "{found[0]}"`'
    return None


def _token_file(spec: DataSpec, inputs: Inputs) -> tuple[str, str] | None:
    """Of `tokens`: options of another kind of file."""
    path, named = spec.path or "", dict(spec.options)
    own = {".npy": (), ".safetensors": ("tensor",)}.get(path[path.rfind(".") :], ("dtype", "offset"))
    other = next((n for n in ("dtype", "offset", "tensor") if n in named and n not in own), None)
    if other is None:
        return None
    return (
        f"`{other}` says nothing of the file `{path}`",
        "`dtype` and `offset` are for raw files, `tensor` for safetensors",
    )


FORMS: dict[str, Form] = {
    "synthetic": Form("synthetic", path=False),
    "text": Form(
        'text("data/corpus.txt", level = "char")',
        options={"level": _one_of("char", "word"), "stream": _FLAG, "limit": _LIMIT},
        fits=_pairs,
    ),
    "csv": Form(
        'csv("data/table.csv", input = "column")', options={"limit": _LIMIT}, named=True, fits=_samples
    ),
    "images": Form('images("data/digits.csv.gz", top = 16)', options={"top": _TOP, "limit": _LIMIT}, fits=_images),
    "arrays": Form(
        'arrays("data/train.safetensors", input = "tensor")', path=None, options={"shuffle": _FLAG}, named=True,
        check=_sources, fits=_samples,
    ),
    "raw": Form(
        'raw("data/train.bin", input = "uint8")', options={"offset": _OFFSET, "shuffle": _FLAG}, named=True,
        check=_records, fits=_samples,
    ),
    "tokens": Form(
        'tokens("data/train.bin", dtype = "uint16")',
        options={"dtype": _one_of(*STORED), "offset": _OFFSET, "tensor": _TEXT, "shuffle": _FLAG},
        check=_token_file, fits=_pairs,
    ),
}  # fmt: skip
"""Reader's name -> what it takes."""
