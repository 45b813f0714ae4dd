"""CPU seconds and memory in which `parc check` is done with files made to hurt it: the cases of tests/dsl."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.dsl.hostile import CASES
from tests.dsl.hostile_models import FINE, MODELS
from tests.dsl.hostile_runner import MEGABYTES, SECONDS, check
from tests.dsl.test_hostile import FILES, text_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="cases; all of them if none is named")
    names = parser.parse_args().names
    makers = {make.__name__[1:]: make for make in FILES}
    wrong = 0
    print(f"{'case':<32} {'CPU s':>6} {'MB':>5}  exit, codes")
    for name in names or (*CASES, *MODELS, *FINE, *makers):
        with TemporaryDirectory() as place:
            folder = Path(place) / "project"
            folder.mkdir()
            (folder / "pyproject.toml").touch()
            if name in makers:
                makers[name](folder)
            else:
                (folder / "main.par").write_bytes(text_of(name).encode("utf-8", "surrogatepass"))
            found = check("main.par", folder)
        over = found.seconds > SECONDS or found.megabytes > MEGABYTES
        wrong += over
        told = ", ".join(dict.fromkeys(found.codes)) or "fine"
        mark = "   OVER" if over else ""
        print(f"{name:<32} {found.seconds:6.2f} {found.megabytes:5.0f}  {found.status}, {told}{mark}", flush=True)
    print(f"{wrong} over {SECONDS} s or {MEGABYTES} MB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
