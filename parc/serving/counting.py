"""What is counted, in the words of Prometheus, and what is logged: a line for each request, without its texts."""

from __future__ import annotations

import json
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from parc.serving.office import Office

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Up to where each bucket counts."""

_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Histogram:
    """How many of what was seen were up to each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def see(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        total, found = 0, []
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts):
            total += count
            found.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{name}_sum {self.sum!r}", f"{name}_count {total}"]


class Counted:
    """Of requests: by address and status, how long they took, and how long clients waited for tokens."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self.seconds, self.first, self.each = Histogram(_SECONDS), Histogram(_SECONDS), Histogram(_SHORT)
        self.prompt_tokens = 0

    def request(self, path: str, status: int, seconds: float) -> None:
        """One that is over; status 499: its client was gone before."""
        self.requests[path, status] = self.requests.get((path, status), 0) + 1
        self.seconds.see(seconds)

    def text(self, office: Office) -> str:
        """All of it, to be read by Prometheus."""
        requests = [
            f'parc_requests_total{{path="{p}",status="{s}"}} {n}' for (p, s), n in sorted(self.requests.items())
        ]
        return "\n".join(
            [
                *_told("parc_requests_total", "counter", "Requests, by address and status.", requests),
                *_distribution("parc_request_seconds", "From a request to the end of its answer.", self.seconds),
                *_distribution("parc_first_token_seconds", "From acceptance to a text's first token.", self.first),
                *_distribution("parc_token_seconds", "Between two tokens of a text.", self.each),
                *_number("parc_prompt_tokens_total", "counter", "Tokens of accepted prompts.", self.prompt_tokens),
                *_number("parc_generated_tokens_total", "counter", "Tokens that were made.", office.made),
                *_number("parc_vectors_total", "counter", "Vectors that were made.", office.vectors),
                *_number("parc_reused_tokens_total", "counter", "Tokens that a row had read already.", office.reused),
                *_number("parc_dropped_total", "counter", "Texts that nobody wanted to the end.", office.dropped),
                *_number("parc_rows", "gauge", "Texts that can be made at a time.", office.rows),
                *_number("parc_running", "gauge", "Texts that are being made.", office.running),
                *_number("parc_waiting", "gauge", "Texts that wait for a row.", len(office.waiting)),
                *_paged(office),
                *_number("parc_worker_ready", "gauge", "Whether requests are accepted.", int(office.ready)),
                *_number("parc_reloads_total", "counter", "Times that weights were taken anew.", office.reloads),
                *_number("parc_worker_ends_total", "counter", "Workers that have died.", office.restarts),
                "",
            ]
        )


def _paged(office: Office) -> list[str]:
    """Of pages of caches, where a job has them."""
    if office.pages is None:
        return []
    *counts, waiting = office.pages
    lines = [f'parc_pages{{state="{state}"}} {n}' for state, n in zip(("used", "kept", "free"), counts, strict=True)]
    help = "Pages of caches: of texts that are being made, nobody's with what was read in them, and free."
    back = "Times that a text gave its pages to an earlier one, to be read anew."
    return [
        *_told("parc_pages", "gauge", help, lines),
        *_number("parc_waiting_for_pages", "gauge", "Texts that have a row and wait for pages.", waiting),
        *_number("parc_interrupted_total", "counter", back, office.crew.interrupted),
    ]


def _told(name: str, kind: str, help: str, lines: list[str]) -> list[str]:
    return [f"# HELP {name} {help}", f"# TYPE {name} {kind}", *lines]


def _number(name: str, kind: str, help: str, value: int) -> list[str]:
    return _told(name, kind, help, [f"{name} {value}"])


def _distribution(name: str, help: str, found: Histogram) -> list[str]:
    return _told(name, "histogram", help, found.lines(name))


class Logged:
    """Writes events to standard error, if they are wanted."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted

    def event(self, name: str, **fields: Any) -> None:
        """A line: when, what, and plain values."""
        if self.wanted:
            line: Mapping[str, Any] = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "event": name,
            } | fields
            sys.stderr.write(json.dumps(line) + "\n")
            sys.stderr.flush()
