"""What one evaluation shares: diagnostics, budgets, the files that are loaded, the stack of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.evaluate import limits
from compiler.evaluate.values import Defined, Skip
from compiler.loop_pieces import LoopPiece, in_words
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, Diagnostics, Note, ParcError, fail
from dsl.source import Source, Span

if TYPE_CHECKING:
    from compiler.evaluate.sizes import Sizes


class Abort(Skip):
    """A budget is spent: stop everything."""


@dataclass(frozen=True, slots=True)
class SourceCall:
    """An open call: what is called and from where."""

    entry: Defined
    span: Span


class Session:
    """State of one evaluation. Errors inside a statement are collected here, and the next statement is tried."""

    def __init__(self) -> None:
        self.diagnostics = Diagnostics()
        self.sources: dict[str, Source] = {}
        self.stack: list[SourceCall] = []
        self.nodes = 0
        self.calls = 0
        self.nesting = 0
        self.failures = 0
        self.sizes: Sizes | None = None  # others in place of those that the file states
        self.microbatches: Callable[[], tuple[int, str | None]] = lambda: (
            1,
            None,
        )  # of the job: how many, of which dim
        self.cuts: Mapping[str, tuple[tuple[int, ...], bool]] = {}  # loops of a model, by path: `layers.edges_of`
        self.pieces: list[LoopPiece] = []  # of the loops that are cut, once they are: errors name what was written
        self.parts_of: Span | None = None  # where loops are cut, while updates of their parts are evaluated
        self.params: Callable[[], Sequence[tuple[str, int]]] = tuple  # the largest integer ones of the file
        self.replaced: dict[str, str] = {}  # dtypes as written -> what stands for them (`verify --double`)

    def __getstate__(self) -> dict[str, Any]:
        """Another process does not go on with it."""
        return {}

    def failed(self, error: ParcError | Skip) -> None:
        """A statement failed: report why, unless that is done. Gives up altogether where a budget is spent."""
        self.failures += 1
        if isinstance(error, ParcError):
            self.report(error)
            if any(d.code == "E0906" for d in error.diagnostics):
                raise Abort
        elif isinstance(error, Abort):
            raise error

    def outside(self, span: Span) -> Span:
        """The place itself, or, of one in the standard library, that of the call from outside of it."""
        if not is_std(span):
            return span
        return next((call.span for call in reversed(self.stack) if not is_std(call.span)), span)

    def decided(self, span: Span, outcome: bool) -> bool:
        """The outcome of an `if`."""
        if self.sizes is not None:
            self.sizes.decided.append((span, outcome))
        return outcome

    def report(self, error: ParcError) -> None:
        """Collect the error's diagnostics. What is wrong inside the standard library is shown at the call of it."""
        for diagnostic in error.diagnostics:
            if self.parts_of is not None and not diagnostic.code.startswith("E09"):  # the whole loop's is right
                from compiler.evaluate.in_parts import of_a_part

                diagnostic = of_a_part(diagnostic, self.parts_of)
            if diagnostic.help == limits.LESS and (params := self.params()):
                named = ", ".join(f"{name} = {value}" for name, value in params)
                diagnostic = replace(diagnostic, help=f"{limits.LESS}; the largest: {named}")
            self.diagnostics.add(in_words(self._at_call(diagnostic), self.pieces))

    def _at_call(self, diagnostic: Diagnostic) -> Diagnostic:
        span = diagnostic.span
        if not self.stack or span is None:
            return diagnostic
        notes: list[Note] = list(diagnostic.notes)
        if not is_std(span):
            if span.source == self.stack[-1].entry.module.name and _within(span, self.stack[-1].entry.item.span):
                notes.append(("called from here", self.stack[-1].span))
            return replace(diagnostic, notes=tuple(notes))
        for call in reversed(self.stack):
            if not is_std(call.span):
                notes.append((f"in `{call.entry.name}` of the standard library", span))
                return replace(diagnostic, span=call.span, notes=tuple(notes))
        return diagnostic

    @contextmanager
    def calling(self, entry: Defined, span: Span) -> Iterator[None]:
        """While a definition is evaluated for whoever uses it at `span`. What is wrong in it is reported with that
        place, and is `Skip` outside."""
        self.stack.append(SourceCall(entry, span))
        try:
            yield
        except ParcError as error:
            self.failed(error)
            raise Skip from None
        finally:
            self.stack.pop()

    @contextmanager
    def nested(self, span: Span) -> Iterator[None]:
        """One more level of nesting; bounds the depth of recursion of the evaluator itself."""
        self.enter(span)
        try:
            yield
        finally:
            self.nesting -= 1

    def enter(self, span: Span) -> None:
        """As `nested`, without the leaving (`session.nesting -= 1`)."""
        if self.nesting >= limits.MAX_NESTING:
            raise fail("E0907", f"more than {limits.MAX_NESTING} expressions and calls inside one another", span)
        self.nesting += 1

    def spend_node(self, span: Span) -> None:
        self.nodes += 1
        if self.nodes > limits.MAX_NODES:
            help = "`repeat` keeps a loop rolled, however many iterations it has"
            raise fail("E0906", f"the model has more than {limits.MAX_NODES:,} operations", span, help=help)

    def spend_call(self, span: Span) -> None:
        self.calls += 1
        if self.calls > limits.MAX_CALLS:
            raise fail("E0906", f"more than {limits.MAX_CALLS:,} calls of functions", span)


def is_std(span: Span) -> bool:
    """Whether the place is in the standard library."""
    return span.source.startswith("<std>")


def _within(span: Span, outer: Span) -> bool:
    return outer.start <= span.start and span.end <= outer.end


def listed(names: Iterable[str], most: int = 8) -> str:
    """`a`, `b` and `c`, in backquotes, cut where there are many."""
    quoted = [f"`{n}`" for n in names]
    if not quoted:
        return "nothing"
    if len(quoted) > most:
        quoted = [*quoted[: most - 1], f"{len(quoted) - most + 1} more"]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
