"""Reads a batch in a process of its own, and says how much memory that took: `python -m tests.data.reading SPEC`.

SPEC: JSON of reader, path, options, inputs, and perhaps `limit` (of the process, in MiB). Prints JSON: bytes that the
memory in use rose by at most, seconds of this process' time, and the codes of errors.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.data.files import declared, spec

ROOT = Path(__file__).parents[2]


def measured(folder: Path, reader: str, path: str, inputs: Any, **options: Any) -> dict[str, Any]:
    """Of a child process. inputs: arguments of `declared`, the last one `high` or None."""
    given = {"folder": str(folder), "reader": reader, "path": path, "inputs": inputs, "options": options}
    command = [sys.executable, "-m", "tests.data.reading", json.dumps(given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def main() -> None:
    from dsl.diagnostics import ParcError
    from dsl.units import Quantity
    from runtime.data import open_data
    from runtime.readable import whole

    given = json.loads(sys.argv[1])
    folder = Path(given["folder"])
    inputs = [declared(name, dtype, *sizes, high=high) for name, dtype, sizes, high in given["inputs"]]
    options = dict(given["options"])
    if "limit" in options:
        options["limit"] = Quantity.of(options["limit"], "MiB")
    (folder / "small.csv").write_text("a\n1\n2\n")
    open_data(spec("csv", "small.csv", folder=folder, a="a"), [declared("a", "f32", 1)]).batch(0, 0)  # all is loaded
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins here
    before, start, codes = _status("VmRSS"), time.process_time(), []
    try:
        reader = open_data(spec(given["reader"], given["path"], folder=folder, **options), inputs)
        for step in range(3):
            whole(reader.batch(0, step))
    except ParcError as error:
        codes = [d.code for d in error.diagnostics]
    taken = time.process_time() - start
    try:
        peak = _status("VmHWM")
    except StopIteration:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"bytes": peak - before, "seconds": taken, "codes": codes}))


if __name__ == "__main__":
    main()
