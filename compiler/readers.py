"""What `data READER(…)` may say: the readers, their arguments, and the inputs that they can fill.

How files are read is `runtime/data/`; what is wrong with a job's `data` without a look at them is told here, when the
file is checked. To add a reader: a `Form` in `FORMS` below, and how it is opened in `runtime/data/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from compiler.graph import Type
from compiler.model import DataSpec
from dsl.data import dataclass
from dsl.diagnostics import did_you_mean, fail

Inputs = Mapping[str, Type]
"""The model's inputs by name, in their order."""


@dataclass(frozen=True, slots=True)
class Option:
    """A named argument: what it is, in words, and whether a value is that."""

    what: str
    fits: Callable[[Any], bool]


def _one_of(*words: str) -> Option:
    return Option(" or ".join(f'"{w}"' for w in words), lambda v: isinstance(v, str) and v in words)


_FLAG = Option("true or false", lambda v: isinstance(v, bool))
_TOP = Option("the largest value of a pixel: a number above 0", lambda v: type(v) in (int, float) and v > 0)
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


FORMS: dict[str, Form] = {
    "synthetic": Form("synthetic", path=False),
    "text": Form(
        'text("data/corpus.txt", level = "char")',
        options={"level": _one_of("char", "word"), "stream": _FLAG},
        fits=_pairs,
    ),
    "csv": Form(
        'csv("data/table.csv", input = "column")', named=True, fits=_samples
    ),
    "images": Form('images("data/digits.csv.gz", top = 16)', options={"top": _TOP}, fits=_images),
}  # fmt: skip
"""Reader's name -> what it takes."""
