"""A Jinja environment for templates of others: they reach nothing but what they are given, in little time and memory.

Lines are looked at as they run; what Python does within one is bounded by the sizes that it is asked for.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime
from types import BuiltinMethodType, FrameType, TracebackType
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 2.0
"""Of CPU, that a template has."""
_CALM = 0.05
"""Seconds of the clock in which nobody looks: what is ready by then, as most are, is not worth it."""
_MEMORY = 2**28
"""Bytes that the process may grow by meanwhile."""
_MOST = 2**22
"""Characters or elements that an operation makes."""
_WIDE = 1000
"""Columns that a text is filled up to, or moved by."""

_FIELD = re.compile(r"\d{4,}|\*|\{[^}]*\{")
"""A width of a format that is large, or is given with its values."""


class TemplateBounds:
    """Use `with`: raises SecurityError in what runs inside once it has taken more than a template has."""

    def __enter__(self) -> TemplateBounds:
        self._before = sys.gettrace()
        self._calm, self._end, self._pages = time.perf_counter() + _CALM, time.thread_time() + SECONDS, _pages()
        sys.settrace(self._look)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        sys.settrace(self._before)

    def _look(self, frame: FrameType, event: str, argument: Any) -> Any:
        if time.perf_counter() > self._calm:
            if time.thread_time() > self._end:
                raise SecurityError(f"it takes more than {SECONDS:g} seconds")
            if (_pages() - self._pages) * 4096 > _MEMORY:
                raise SecurityError(f"it takes more than {_MEMORY // 2**20} MiB")
        return self._look


def _pages() -> int:
    """Pages of memory that this process has; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1])
    except OSError:
        return 0


def _held(size: float, most: int = _MOST) -> None:
    if size > most:
        raise SecurityError(f"it makes {size:,.0f} of something, {most:,} at most")


def _count(x: Any) -> int:
    return len(x) if hasattr(x, "__len__") else 1


def _product(left: Any, right: Any) -> None:
    for times, of in ((left, right), (right, left)):
        if isinstance(times, int):
            _held(times.bit_length() if isinstance(of, int) else times * _count(of))


def _format(text: Any, *_: Any) -> None:
    if _FIELD.search(str(text)) is not None:
        raise SecurityError("it formats with a width of more than 999, or one of its values")


def _wide(text: Any, *widths: Any) -> None:
    for width in widths:
        _held(width if isinstance(width, int) else _count(width), _WIDE)


def _replaced(text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    _held((len(str(text)) + 1) * max(1, len(str(new))))


def _joined(first: Any, second: Any = "", *_: Any) -> None:
    _held(max(1, _count(first)) * max(1, _count(second)))


_LARGE: dict[str, Callable[..., None]] = {
    "center": _wide, "ljust": _wide, "rjust": _wide, "zfill": _wide, "expandtabs": _wide, "indent": _wide,
    "wordwrap": _wide, "batch": _wide, "slice": _wide, "round": _wide, "format": _format,
    "replace": _replaced, "join": _joined,
}  # fmt: skip
"""Methods of texts, and filters, that make large things of small ones: what holds them to a size."""


class BoundedTemplates(ImmutableSandboxedEnvironment):  # type: ignore[misc]
    """The environment."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag])
        self.globals.pop("lipsum")
        self.globals |= {"raise_exception": _refused, "strftime_now": lambda form: datetime.now().strftime(form)}
        for name in _LARGE.keys() & self.filters.keys():
            self.filters[name] = _looked_at(_LARGE[name], self.filters[name])
        self.filters["tojson"] = _to_json

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operation whose result may be much larger than what it takes."""
        if operator == "*":
            _product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _held(left.bit_length() * max(0, right), 2**12)
        elif operator == "%" and isinstance(left, str):
            _format(left)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """What stands for `format` of a text."""
        found: Callable[..., str] | None = super().wrap_str_format(value)
        if found is not None:
            _format(value.__self__)
        return found

    def call(self, context: Any, called: Any, /, *args: Any, **named: Any) -> Any:
        """A function, or a method of a text."""
        if isinstance(called, BuiltinMethodType) and isinstance(called.__self__, str) and called.__name__ in _LARGE:
            _LARGE[called.__name__](called.__self__, *args, *named.values())
        return super().call(context, called, *args, **named)


def _looked_at(look: Callable[..., None], filter: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, whose arguments are looked at first. What Jinja gives it besides stands before them."""
    given = hasattr(filter, "jinja_pass_arg")

    def held(*args: Any, **named: Any) -> Any:
        look(*args[given:], *named.values())
        return filter(*args, **named)

    held.__dict__ |= filter.__dict__
    return held


def _to_json(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers has it: without HTML's escapes."""
    if indent is not None:
        _wide("", indent)
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refused(message: str) -> Any:
    from jinja2 import TemplateError

    raise TemplateError(message)


class GenerationTag(Extension):  # type: ignore[misc]
    """`{% generation %}` marks what an assistant says, for training: here it changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """What stands between."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)
