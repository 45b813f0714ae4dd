"""Reads tokens one after the other: names, numbers, types, values; knows nothing of programs."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NoReturn

from compiler.graph import DTYPES, Dim, Type
from compiler.layout import TIME, Layout
from compiler.model import Init
from compiler.program import Affine
from compiler.text.attrs import MICRO
from compiler.text.lexer import Lexeme, tokens
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.printable import legible
from dsl.source import Span

MAX_LIST = 100_000
"""Elements of a written-out range of integers."""

MAX_NESTING = 32
"""Brackets within brackets of a value."""

MAX_NATURAL = 2**64 - 1
"""Of sizes, counts and seeds."""

_SPECIAL = {"true": True, "false": False, "none": None, "inf": float("inf"), "nan": float("nan")}


class Cursor:
    """A position in the tokens of one text."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.tokens = tokens(text, name)
        self.at = 0
        self.sizes: Mapping[str, int] = {}

    # --- tokens ---

    @property
    def token(self) -> Lexeme:
        return self.tokens[self.at]

    def span(self, start: Lexeme) -> Span:
        """From `start` to the token before the next one."""
        return Span(self.name, start.start, max(start.end, self.tokens[max(self.at - 1, 0)].end))

    def error(self, code: str, message: str, start: Lexeme | None = None, help: str | None = None) -> ParcError:
        """An error at `start` up to here (or at the next token)."""
        t = self.token
        return fail(code, message, Span(self.name, t.start, t.end) if start is None else self.span(start), help=help)

    def expected(self, what: str) -> NoReturn:
        raise self.error("E0601", f"expected {what}, found {self.token}")

    def next(self) -> Lexeme:
        t = self.tokens[self.at]
        if t.kind != "end":
            self.at += 1
        return t

    def sees(self, kind: str) -> bool:
        return self.tokens[self.at].kind == kind

    def take(self, kind: str) -> bool:
        """Whether the mark is next; if so it is read."""
        if self.tokens[self.at].kind == kind:
            self.at += 1
            return True
        return False

    def mark(self, kind: str) -> Lexeme:
        if not self.sees(kind):
            self.expected({"newline": "the end of the line"}.get(kind, f"`{kind}`"))
        return self.next()

    def sees_word(self, word: str) -> bool:
        t = self.tokens[self.at]
        return t.kind == "word" and t.text == word

    def take_word(self, word: str) -> bool:
        if self.sees_word(word):
            self.at += 1
            return True
        return False

    def word(self, word: str) -> None:
        if not self.take_word(word):
            self.expected(f"`{word}`")

    def end_line(self) -> None:
        self.mark("newline")

    def skip_lines(self) -> None:
        while self.take("newline"):
            pass

    # --- names and numbers ---

    def text(self, what: str = "a name") -> str:
        """A word or a string, which is a name: it can be printed."""
        t = self.token
        if t.kind not in ("word", "string"):
            self.expected(what)
        if t.kind == "string" and not legible(t.text):
            bad = next(c for c in t.text if not legible(c))
            help = (
                "names have no control characters, no letters without ink, none that change the direction of text, and "
                "no halves of pairs"
            )
            raise self.error("E0673", f"a name with U+{ord(bad):04X}, which cannot be seen", help=help)
        return self.next().text

    def axis_name(self, what: str) -> str:
        """An axis: of the mesh, or the micro-batches."""
        return TIME if self.take_word(MICRO) else self.text(what)

    def value_name(self) -> str:
        self.mark("%")
        return self.text("the name of a value")

    def natural(self, what: str = "an integer") -> int:
        if not self.sees("int"):
            self.expected(what)
        value = int(self.token.text)
        if value > MAX_NATURAL:
            raise self.error("E0608", f"{what} of {len(self.token.text)} digits", help=f"at most {MAX_NATURAL}")
        self.at += 1
        return value

    def integer(self, what: str = "an integer") -> int:
        negative = self.take("-")
        if not negative:
            self.take("+")
        return -self.natural(what) if negative else self.natural(what)

    def number(self) -> int | float:
        """An integer or a float, as written; `inf`, `-inf`, `nan`."""
        negative = self.take("-")
        if not negative:
            self.take("+")
        t = self.token
        value: int | float
        if t.kind in ("int", "float"):
            value = int(t.text) if t.kind == "int" else float(t.text)
        elif t.kind == "word" and t.text in ("inf", "nan"):
            value = float(t.text)
        else:
            self.expected("a number")
        self.next()
        return -value if negative else value

    def affine(self, *variables: str) -> dict[str, int]:
        """A sum of integers and multiples of variables: variable -> factor, "" -> the constant."""
        total = dict.fromkeys(("", *variables), 0)
        first = True
        while True:
            sign = -1 if self.take("-") else 1
            if sign == 1 and not self.take("+") and not first:
                return total
            factor, variable = 1, ""
            if self.sees("int"):
                factor = self.natural()
                if self.take("*"):
                    variable = self._variable(variables)
            else:
                variable = self._variable(variables)
            total[variable] += sign * factor
            first = False

    def _variable(self, variables: tuple[str, ...]) -> str:
        if self.token.kind != "word" or self.token.text not in variables:
            self.expected(" or ".join(f"`{v}`" for v in variables))
        return self.next().text

    def group_affine(self) -> Affine:
        """`3 - g`."""
        terms = self.affine("g")
        return Affine(terms[""], terms["g"])

    def runs(self, limit: int) -> tuple[int, ...]:
        """`1, 3..14`: both ends included; none above `limit`."""
        found: list[int] = []
        while True:
            start = self.token
            found += self._run(start, self.natural(), limit, MAX_LIST - len(found))
            if not self.take(","):
                return tuple(found)

    def _run(self, start: Lexeme, first: int, limit: int, room: int) -> range:
        last = self.natural() if self.take("..") else first
        if last < first or last > limit:
            raise self.error("E0606", f"{first}..{last} is not a range within 0..{limit}", start)
        if last - first >= room:
            raise self.error("E0608", f"{first}..{last} are too many", start, help=f"at most {MAX_LIST} are taken")
        return range(first, last + 1)

    # --- values of attributes ---

    def value(self, depth: int = 0, axes: bool = False) -> Any:
        """A name (axes: of an axis), number, `true`, `false`, `none`, dim `s=4` or a list `(a, b)` of them."""
        t = self.token
        if axes and self.take_word(MICRO):
            return TIME
        if t.kind == "string" or (t.kind == "word" and t.text not in _SPECIAL):
            name = self.text()
            return Dim(name, self.natural("a size")) if self.take("=") else name
        if t.kind == "word" and t.text in ("true", "false", "none"):
            self.next()
            return _SPECIAL[t.text]
        if t.kind == "(":
            return self._list(depth, axes)
        return self.number()

    def _list(self, depth: int, axes: bool) -> tuple[Any, ...]:
        start = self.mark("(")
        if depth >= MAX_NESTING:
            raise self.error("E0608", f"brackets are nested deeper than {MAX_NESTING}", start)
        items: list[Any] = []
        while not self.sees(")"):
            here = self.token
            item = self.value(depth + 1, axes)
            if self.take("->"):
                items.append((item, self.value(depth + 1)))
            elif self.sees("..") and type(item) is int:
                items += self._run(here, item, MAX_NATURAL, MAX_LIST - len(items))
            else:
                items.append(item)
            if not self.take(","):
                break
        self.mark(")")
        return tuple(items)

    # --- types ---

    def type(self) -> tuple[Type, Layout]:
        """`f32[b=4/mb/dp, v=13/tp of 50, h=10/sp halo(1, 1)] pending(tp sum)`: local sizes, axes."""
        if self.token.kind != "word" or self.token.text not in DTYPES:
            help = did_you_mean(self.token.text, DTYPES) or f"there are {', '.join(DTYPES)}"
            raise self.error("E0601", f"expected an element type, found {self.token}", help=help)
        dtype = self.next().text
        self.mark("[")
        dims: list[Dim] = []
        axes: list[tuple[str, ...]] = []
        halo: list[tuple[int, int, int]] = []
        while not self.sees("]"):
            dim, on, border = self._dim()
            if border is not None:
                halo.append((len(dims), *border))
            dims.append(dim)
            axes.append(on)
            if not self.take(","):
                break
        self.mark("]")
        pending: list[tuple[str, str]] = []
        if self.take_word("pending"):
            self.mark("(")
            while not self.sees(")"):
                pending.append((self._axis(), self.text("`sum` or `max`")))
                if not self.take(","):
                    break
            self.mark(")")
        return Type(dtype, tuple(dims)), Layout(tuple(axes), tuple(pending), tuple(halo))

    def _dim(self) -> tuple[Dim, tuple[str, ...], tuple[int, int] | None]:
        start = self.token
        name = self.text("the name of a dim")
        self.mark("=")
        local = self.natural("a size")
        axes: list[str] = []
        while self.take("/"):
            axes.append(self._axis())
        size = self.natural("the whole size") if self.take_word("of") else None
        border = None
        if self.take_word("halo"):
            self.mark("(")
            left = self.natural()
            self.mark(",")
            border = (left, self.natural())
            self.mark(")")
            local -= sum(border)
        n = prod(self.sizes[a] for a in axes)
        if size is None:
            size = local * n
        if local < 0 or -(-size // n) != local:
            help = f"{size} in {n} pieces are {-(-size // n)} each" if local >= 0 else "the borders are too wide"
            raise self.error("E0605", f"dim {name}: the local size does not go with the whole size", start, help)
        return Dim(name, size), tuple(axes), border

    def _axis(self) -> str:
        start = self.token
        axis = self.axis_name("a mesh axis")
        if axis not in self.sizes:
            help = did_you_mean(axis, self.sizes) or f"there are {', '.join(self.sizes) or 'none'}"
            raise self.error("E0605", f"there is no axis `{axis}`", start, help)
        return axis

    def initialiser(self) -> Init:
        """`normal(0.1)`: how a weight or a state begins."""
        kind = self.text("an initialiser")
        args: list[float] = []
        if self.take("("):
            while not self.sees(")"):
                args.append(self.number())
                if not self.take(","):
                    break
            self.mark(")")
        return Init(kind, tuple(args))

    def range(self) -> tuple[int, int]:
        """`0..49`: the range that a state's integers stay in."""
        low = self.integer()
        self.mark("..")
        return low, self.integer()

    def bounds(self) -> tuple[int | None, int | None]:
        """The rest of an input's line: nothing, or `in 0..10`, with either end left out where there is none."""
        low: int | None = None
        high: int | None = None
        if self.take_word("in"):
            low = None if self.sees("..") else self.integer()
            self.mark("..")
            high = None if self.sees("newline") else self.integer()
        self.end_line()
        return low, high
