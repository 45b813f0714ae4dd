"""Reads data files: ordinary ones, inside the project, of bounded size."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from dsl.diagnostics import fail
from dsl.files import project_root
from dsl.source import Span

MAX_BYTES = 256 * 2**20
"""Size of a data file, unpacked."""


def read_text(path: str, folder: str, span: Span | None) -> str:
    """The text of a file below the project's root; `.gz` is unpacked. `path` starts from `folder`.

    Raises E0704 where it is missing, outside of the project, too large, or not UTF-8.
    """
    if "\0" in path or os.path.isabs(path):
        help = "write the path from the `.par` file, with `/`"
        raise fail("E0704", f"`{path}` is not a relative path", span, help=help)
    place = Path(folder) / path
    root = project_root(Path(folder) / "_")
    real = Path(os.path.realpath(place))
    if not real.is_relative_to(os.path.realpath(root)):
        raise fail("E0704", f"the data file `{path}` is outside of the project", span, help=f"copy it below {root}")
    if not real.is_file():
        beside = sorted(p.name for p in real.parent.iterdir())[:10] if real.parent.is_dir() else []
        help = f"the folder has {', '.join(beside)}" if beside else f"there is no folder `{os.path.dirname(path)}`"
        raise fail("E0704", f"there is no data file `{path}`", span, help=help)
    try:
        with gzip.open(real, "rb") if real.suffix == ".gz" else open(real, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise fail("E0704", f"the data file `{path}` is larger than {MAX_BYTES // 2**20} MiB", span)
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise fail("E0704", f"the data file `{path}` is not UTF-8 text (byte {error.start})", span) from None
    except (OSError, EOFError, zlib.error) as error:
        raise fail("E0704", f"cannot read the data file `{path}`: {error}", span) from None
