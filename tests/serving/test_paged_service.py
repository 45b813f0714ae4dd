"""`parc serve` of a job whose caches lie in pages that texts share."""

from __future__ import annotations

import time
from pathlib import Path

from tests.serving.conftest import serving
from tests.serving.sample import TEXT, alone, written
from tests.serving.test_service import PROMPTS, at_once, client_of, made, metrics

USED, KEPT, FREE = (f'parc_pages{{state="{state}"}}' for state in ("used", "kept", "free"))


def test_texts_share_a_pool_of_pages(tmp_path: Path) -> None:
    """As long as one whole text: the others wait, or give their pages back, and all are what they are by themselves.
    Those of a client that goes are free at once; a new worker begins without any."""
    rule = "  store caches as paged(slots = 16, pages = 16)\n"
    path = written(tmp_path, TEXT.replace("  split t on tp\n", rule))
    with serving(path) as server, client_of(server) as client:
        assert metrics(server)[FREE] == 16
        found: dict[int, str] = {}

        def ask(i: int) -> None:
            found[i] = made(client, PROMPTS[-1], 60, seed=i, temperature=0.9).choices[0].text

        at_once(4, ask)
        assert all(found[i] == alone(path, PROMPTS[-1], 60, 0.9, i)[0] for i in range(4))
        now = metrics(server)
        assert now[USED] == now["parc_waiting_for_pages"] == 0
        assert now[KEPT] > 0 and now[KEPT] + now[FREE] == 16 and now["parc_interrupted_total"] > 0
        with made(client, "I", 200, stream=True) as stream:
            for k in range(40):
                next(stream)
                if k == 4:
                    server.kill_worker()
            assert metrics(server)[USED] >= 2
        deadline = time.monotonic() + 30
        while metrics(server)[USED] and time.monotonic() < deadline:
            time.sleep(0.02)
        now = metrics(server)
        assert now[USED] == 0 and now["parc_dropped_total"] == now["parc_worker_ends_total"] == 1
