"""A stream of requests through continuous batching, on the clock of the cost model: how long people wait for texts."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from compiler.driver import Compiled, compile_job
from compiler.incremental.paged import Paging, paging
from compiler.model import DECODE, PREFILL
from dsl.data import dataclass
from dsl.diagnostics import fail
from parc.decoding import entry_price
from runtime.generate.pages import PageTable
from runtime.generate.turns import next_turn

MOST_CALLS = 10**7
"""Of a model, one after the other: each takes microseconds to be played."""


@dataclass(frozen=True, slots=True)
class RequestLoad:
    """Requests that come by themselves (a Poisson process, drawn from the seed): `rate` a second, `count` of them; of
    so many tokens each, from the least to the most, all alike often. within: seconds to the first token, and for each
    one more, that a request must keep to count as good; None: any."""

    rate: float
    prompt: tuple[int, int]
    output: tuple[int, int]
    count: int = 1000
    seed: int = 0
    within: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of half of all, and of 99 in a hundred, no more than this; seconds."""

    p50: float
    p99: float

    @staticmethod
    def of(values: Sequence[float]) -> Quantiles:
        """The least values of which so many are no more (nearest rank)."""
        ranked = sorted(values)
        return Quantiles(*(ranked[max(0, -(-len(ranked) * share // 100) - 1)] for share in (50, 99)))


@dataclass(frozen=True, slots=True)
class ServingPrice:
    """What a load makes of a job with so many rows. prefill_seconds, decode_seconds: of a call of either entry;
    seconds: from the first request to the last token; tokens: that were made; busy: the share of that in which anything
    was computed; together: how many texts took part in a call, on the average; most_waiting: for a row, at the worst;
    good: requests that kept `within`; interrupted: how often a text gave its pages to an
    earlier one, and was read anew."""

    load: RequestLoad
    rows: int
    prefill: int
    prefill_seconds: float
    decode_seconds: float
    first_token: Quantiles
    token: Quantiles
    seconds: float
    tokens: int
    busy: float
    together: float
    most_waiting: int
    good: int
    interrupted: int = 0

    @property
    def tokens_per_second(self) -> float:
        """That were made, of all requests."""
        return self.tokens / self.seconds

    @property
    def goodput(self) -> float:
        """Requests a second that kept the limits."""
        return self.good / self.seconds

    def as_json(self) -> dict[str, Any]:
        """Plain values, in seconds."""
        return {
            "rate": self.load.rate,
            "prompt_tokens": list(self.load.prompt),
            "output_tokens": list(self.load.output),
            "requests": self.load.count,
            "seed": self.load.seed,
            "within": list(self.load.within),
            "rows": self.rows,
            "prefill": self.prefill,
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": self.decode_seconds,
            "first_token_seconds": {"p50": self.first_token.p50, "p99": self.first_token.p99},
            "token_seconds": {"p50": self.token.p50, "p99": self.token.p99},
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens_per_second,
            "busy": self.busy,
            "together": self.together,
            "most_waiting": self.most_waiting,
            "interrupted": self.interrupted,
            "goodput": self.goodput,
        }


class _Text:
    """One request: when it came, how many tokens it reads and makes, and how far it is."""

    def __init__(self, came: float, prompt: int, output: int) -> None:
        self.came, self.prompt, self.output = came, prompt, output
        self.read = self.made = 0
        self.first = self.last = 0.0

    @property
    def known(self) -> int:
        """Tokens that there are."""
        return self.prompt + self.made

    @property
    def left(self) -> int:
        """Those that were not read yet."""
        return self.known - self.read


class _Pools:
    """Who has pages: the same rules as `RowBatch` has."""

    def __init__(self, table: PageTable, taken: list[_Text | None], waiting: deque[_Text]) -> None:
        self.table, self.taken, self.waiting = table, taken, waiting
        self.interrupted = 0

    def begin(self) -> None:
        """Texts that wait have rows, as they came, and all that run have pages for what they read next."""
        table, taken, waiting = self.table, self.taken, self.waiting
        while waiting:
            rows = {table.piece(i): i for i in reversed(range(len(taken))) if taken[i] is None}
            best = max(rows.values(), key=table.room, default=None)
            if best is None or table.begin(best, range(waiting[0].known)) is None:
                break
            taken[best] = waiting.popleft()
        for t in sorted((t for t in taken if t is not None), key=lambda t: t.came):
            while t in taken and not table.reach(i := taken.index(t), t.known):
                self._interrupt(table.piece(i))

    def _interrupt(self, piece: int) -> None:
        """The text of a pool that came last."""
        rows = [(t.came, i) for i, t in enumerate(self.taken) if t is not None and self.table.piece(i) == piece]
        i = max(rows)[1]
        last = self.taken[i]
        assert last is not None
        self.taken[i], last.read = None, 0
        self.table.release(i)
        self.waiting.insert(sum(t.came < last.came for t in self.waiting), last)
        self.interrupted += 1


def serving_price(compiled: Compiled, load: RequestLoad) -> ServingPrice:
    """Price the job's entries as a service has them, and play the load.

    Raises ParcError: E0783 for a job that does not decode, E0782 where its sequences hang on each other, E0784 for a
    load that does not fit its positions, E0801 without a cluster.
    """
    from parc.serving.batching import for_rows, ports_named

    ports = ports_named(compiled)
    job = for_rows(compiled, ports)
    decoding = compiled.job.decoding
    assert decoding is not None
    most = load.prompt[1] + load.output[1] - 1
    if most > ports.places:
        message = f"a prompt of {load.prompt[1]:,} tokens and {load.output[1]:,} more take {most:,} positions"
        raise fail("E0784", f"{message}, there are {ports.places:,}", job.span, help="take fewer, or a model with more")
    first, one = (entry_price(compile_job(job, entry)).seconds for entry in (PREFILL, DECODE))
    rule = decoding.pages
    pages = paging(compiled.training.model, rule, decoding.dim) if rule is not None else None
    return played(load, ports.rows, decoding.prefill, first, one, pages)


def played(
    load: RequestLoad,
    rows: int,
    prefill: int,
    prefill_seconds: float,
    decode_seconds: float,
    pages: Paging | None = None,
) -> ServingPrice:
    """Play the load: requests wait for a free row in the order in which they come, and calls take turns as the service
    has them (`next_turn`). pages: in which caches lie; texts have them, wait for them and give them back as in the
    service, but share none. Raises ParcError: E0931 for more calls than can be played."""
    if (calls := load.count * load.output[0] // rows) > MOST_CALLS:
        message = f"the load takes {calls:,} calls at least, the most that are played is {MOST_CALLS:,}"
        raise fail("E0931", message, help="fewer requests, or shorter texts")
    rng = random.Random(load.seed)
    now, coming = 0.0, deque[_Text]()
    for _ in range(load.count):
        now += rng.expovariate(load.rate)
        coming.append(_Text(now, rng.randint(*load.prompt), rng.randint(*load.output)))
    texts = list(coming)
    waiting = deque[_Text]()
    taken: list[_Text | None] = [None] * rows
    pools = _Pools(PageTable("", pages), taken, waiting) if pages is not None else None
    now = begun = texts[0].came
    busy, calls, together, worst, chunk_last = 0.0, 0, 0, 0, False
    while coming or waiting or any(taken):
        while coming and coming[0].came <= now:
            waiting.append(coming.popleft())
        if pools is not None:
            pools.begin()
        else:
            for i, t in enumerate(taken):
                if t is None and waiting:
                    taken[i] = waiting.popleft()
        worst = max(worst, len(waiting))
        turn = next_turn([t.left if t is not None else 0 for t in taken], prefill, chunk_last)
        if not turn.rows:
            now = coming[0].came
            continue
        chunk_last = turn.chunk
        took = prefill_seconds if turn.chunk else decode_seconds
        now, busy, calls, together = now + took, busy + took, calls + 1, together + len(turn.rows)
        for i in turn.rows:
            t = taken[i]
            assert t is not None
            t.read += prefill if turn.chunk else 1
            if t.left:
                continue
            t.made += 1
            t.first, t.last = (now if t.made == 1 else t.first), now
            if t.made == t.output:
                taken[i] = None
                if pools is not None:
                    pools.table.release(i)
    first = [t.first - t.came for t in texts]
    each = [(t.last - t.first) / (t.output - 1) if t.output > 1 else 0.0 for t in texts]
    limits = [float("inf") if x is None else x for x in load.within]
    good = sum(a <= limits[0] and b <= limits[1] for a, b in zip(first, each))
    several = [x for x, t in zip(each, texts) if t.output > 1] or [0.0]
    return ServingPrice(
        load, rows, prefill, prefill_seconds, decode_seconds, Quantiles.of(first), Quantiles.of(several), now - begun,
        sum(t.output for t in texts), busy / (now - begun), together / calls, worst, good,
        pools.interrupted if pools is not None else 0,
    )  # fmt: skip
