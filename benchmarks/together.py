"""Tokens a second of `parc serve` for one text at a time, and for 16 together: `python -m benchmarks.together`.

By the CPU seconds of both of its processes, so that what else the machine does counts for little; the clock's are told,
too. One and many take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from tests.serving.conftest import KEY, Server, serving
from tests.serving.sample import written

LEAST = 4.0
"""Times the tokens a second of one text."""

MODEL = """\
use std.layers (attention, layer_norm, mlp)
use std.tactics (tensor_parallel)

model writer(batch, places) {{
  dim b = batch, s = places, d = {hidden}, v = 80
  input tokens : int32[b,s] in 0..v
  weight table[v,d], position[s,d] ~ normal(0.3)
  x[b,s,d] = take(table, tokens, over v) + position
  repeat {layers} as block {{
    x = x + attention(layer_norm(x), {hidden} / 64)
    x = x + mlp(layer_norm(x), 4 * {hidden})
  }}
  logits[b,s,v] = layer_norm(x) @ table
  output logits
}}

strategy two for writer {{
  mesh (tp = 2)
  tensor_parallel(tp)
  split t on tp
}}

job write {{
  infer writer({batch}, {places}) using two
  data text("corpus.txt")
  decode over s, prefill 8
}}
"""


def cpu(server: Server) -> float:
    """Seconds that the service's two processes have computed."""
    found = 0.0
    for pid in (server.process.pid, server.worker()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def asked(server: Server, number: int, tokens: int) -> int:
    """Ask for one text; its tokens."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=600)
    body = {"model": "write", "prompt": f"To be {chr(97 + number)}", "max_tokens": tokens, "temperature": 0}
    heads = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/completions", json.dumps(body), heads)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, found
    return int(found["usage"]["completion_tokens"])


def rates(server: Server, texts: int, tokens: int) -> tuple[float, float]:
    """Tokens a second of CPU, and of the clock."""
    begun, computed = time.perf_counter(), cpu(server)
    with ThreadPoolExecutor(texts) as pool:
        made = sum(pool.map(lambda i: asked(server, i, tokens), range(texts)))
    return made / (cpu(server) - computed), made / (time.perf_counter() - begun)


def main() -> int:
    """Print the rates; 1 where many together are not fast enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("layers", 4), ("hidden", 256), ("texts", 16), ("tokens", 64), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    text = MODEL.format(hidden=args.hidden, layers=args.layers, batch=args.texts, places=args.tokens + 32)
    found = []
    with tempfile.TemporaryDirectory() as folder, serving(written(Path(folder), text), "--no-reuse") as server:
        rates(server, 1, 8)
        for turn in range(args.rounds):
            one, many = rates(server, 1, args.tokens), rates(server, args.texts, args.tokens)
            found.append(many[0] / one[0])
            print(
                f"turn {turn}: one {one[0]:.0f} tokens a second of CPU ({one[1]:.0f} of the clock), "
                f"{args.texts} together {many[0]:.0f} ({many[1]:.0f}): {found[-1]:.1f} times", flush=True,
            )  # fmt: skip
        assert server.end() == 0
    print(f"{median(found):.1f} times the tokens a second of one (at least {LEAST})")
    return int(median(found) < LEAST)


if __name__ == "__main__":
    sys.exit(main())
