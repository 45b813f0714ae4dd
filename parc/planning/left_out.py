"""What a search leaves out: what the user's software cannot do, or what nobody wants. `parc plan --without LIST`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail, suggest
from dsl.source import Source, Span
from parc.planning.implementing import HandWritten
from parc.planning.offloads import CLASSES, Away
from parc.planning.recomputes import Again

AXES = ("pp", "dp", "ep", "cp", "sp", "sx", "tp")
"""Names that axes of a space may have."""

SIMPLE = ("gpipe", "one_f_one_b", "interleaved", "zero_bubble")
STAGES_OF_ZERO = tuple(f"zero={z}" for z in range(4))
AGAIN = ("part", "products", "layers", "some")
"""Kinds of what is computed again: of each layer the part of which most is saved, all but what products make, whole
layers; of all of these only some layers (what is tried around the best)."""

WORDS = (
    *(name for name in AXES if name != "dp"),
    *SIMPLE,
    *STAGES_OF_ZERO,
    *("recompute", *(f"recompute={kind}" for kind in AGAIN)),
    *("sequence", "heads", "ring", "zigzag", "rows"),
    *("outermost=pp", "outermost=dp"),
    *("offload", *(f"offload={of}" for of in CLASSES)),
    *("cuts", "places"),
)
"""All that can be left out, but for sizes."""

SIZED = (*AXES, "chunks")
"""What has an upper limit, such as `tp>8`."""

MOST = 1 << 20
MOST_ZERO = 3
LONGEST = 40

COMMAND = "<--without>"
"""The name of the text that spans of errors point into."""

_LIMIT = re.compile(r"([a-z]+)\s*(?:>\s*([0-9]{1,9})|=\s*([0-9]{1,9})\s*\.\.)")
_ZERO = re.compile(r"zero\s*=\s*([0-9]{1,9})(?:\s*\.\.\s*([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class SpaceWithout:
    """What no strategy of a space has. words: of `WORDS`, in their order; most: of axes and chunks so many at most."""

    words: tuple[str, ...] = ()
    most: tuple[tuple[str, int], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """As they are written."""
        return (*self.words, *(f"{name}>{n}" for name, n in self.most))

    def limits(self, name: str) -> bool:
        """Whether an axis has an upper limit."""
        return any(of == name for of, _ in self.most)

    def size(self, name: str, n: int) -> bool:
        """Whether an axis may have so many devices."""
        return all(n <= most for of, most in self.most if of == name)

    def schedule(self, name: str, chunks: int) -> bool:
        """Whether there is such a schedule."""
        return name not in self.words and self.size("chunks", chunks)

    def zero(self, stage: int) -> bool:
        """Whether there is such a stage of ZeRO."""
        return f"zero={stage}" not in self.words

    def again(self, rules: Again, layers: Sequence[str]) -> bool:
        """Whether that may be computed again. layers: scopes of whole layers."""
        return not rules or not {"recompute", f"recompute={_kind(rules, layers)}"} & {*self.words}

    def by_hand(self, of: HandWritten) -> bool:
        """Whether a function may take the place of scopes."""
        return not (of.zigzag and "zigzag" in self.words) and not (of.function.startswith("ring") and self.ring)

    @property
    def ring(self) -> bool:
        """Whether ring attention is left out."""
        return "ring" in self.words

    def away(self, classes: Away) -> bool:
        """Whether these may rest with the hosts."""
        return not classes or not {"offload", *(f"offload={of}" for of in classes)} & {*self.words}


NOTHING_LEFT_OUT = SpaceWithout()


def _kind(rules: Again, layers: Sequence[str]) -> str:
    if any(rule.keep for rule in rules):
        return "products"
    return "layers" if all(rule.scope in layers for rule in rules) else "part"


def asked_source(texts: Sequence[str]) -> Source:
    """What spans of its errors point into."""
    return Source(COMMAND, ",".join(texts))


def left_out(texts: Sequence[str]) -> SpaceWithout:
    """Of lists of names, with commas between. Raises ParcError (E0803) for a name that nothing has, and for a list that
    leaves nothing of something that there has to be."""
    source = asked_source(texts)
    words, most = set[str](), dict[str, int]()
    for item in re.finditer(r"[^,]+", source.text):
        text = item[0].strip()
        if not text:
            continue
        start = item.start() + item[0].index(text)
        for found in _read(text, Span(source.name, start, start + len(text))):
            if isinstance(found, str):
                words.add(found)
            else:
                most[found[0]] = min(found[1], most.get(found[0], MOST))
    if words >= {*STAGES_OF_ZERO}:
        raise fail("E0803", "no stage of ZeRO is left", Span(source.name, 0, len(source.text)), help=_ZERO_HELP)
    if words >= {"outermost=pp", "outermost=dp"}:
        message = "neither stages nor replicas are left to be outermost"
        raise fail("E0803", message, Span(source.name, 0, len(source.text)), help="leave out one of them at most")
    limits = tuple((name, most[name]) for name in SIZED if name in most and name not in words)
    return SpaceWithout(tuple(word for word in WORDS if word in words), limits)


_ZERO_HELP = "`zero=0` is: nothing is sharded. Leave out `zero=1..4` to have that alone"


def _read(text: str, span: Span) -> Iterator[str | tuple[str, int]]:
    """What a name stands for: words, and limits of sizes. Raises ParcError."""
    if text in WORDS:
        yield text
        return
    if zero := _ZERO.fullmatch(text):
        first = int(zero[1])
        stages = range(first, int(zero[2]) if zero[2] else first + 1)
        if not stages or stages[-1] > MOST_ZERO:
            raise fail("E0803", f"`{text}` are no stages of ZeRO", span, help="0 to 3: `zero=2`, `zero=2..4`, `zero>1`")
        yield from (f"zero={z}" for z in stages)
        return
    limit = _LIMIT.fullmatch(text)
    if limit is not None and limit[1] in (*SIZED, "zero"):
        name, n = limit[1], int(limit[2]) if limit[2] else int(limit[3]) - 1
        if name == "zero":
            yield from (f"zero={z}" for z in range(max(0, n + 1), MOST_ZERO + 1))
        elif n >= 2 or (n == 1 and name in ("dp", "chunks")):
            yield name, n
        elif n == 1:
            yield name
        else:
            help = f"`{name}>1` leaves one" if name in ("dp", "chunks") else f"`{name}` leaves the axis out"
            raise fail("E0803", f"`{text}` leaves no size of `{name}`", span, help=help)
        return
    raise _unknown(text, span)


def _unknown(text: str, span: Span) -> ParcError:
    if text == "dp":
        help = "the batch is shared by what other axes leave of the devices; `dp>1` leaves no replicas"
        return fail("E0803", "`dp` cannot be left out", span, help=help)
    near = suggest(text, WORDS)
    hint = f"`{near}`? There is " if near else ""
    sizes = "`tp>8` (in quotes) or `tp=9..` for axes and `chunks`"
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return fail("E0803", f"`{shown}` is nothing that can be left out", span, help=f"{hint}{', '.join(WORDS)}; {sizes}")


def refuse_open(without: SpaceWithout) -> None:
    """Raises ParcError (E0803) where something is left out of numbers that a file leaves open."""
    if without.names:
        message = "a file whose strategy leaves numbers open (`auto`) has a space of its own: nothing is left out of it"
        help = "values that are wanted say it: `param tp = auto in {1, 2, 4, 8}`, or a number in the place of `auto`"
        raise fail("E0803", message, help=help)
