"""Reads data files: ordinary ones, inside the project, of bounded size."""

from __future__ import annotations

import gzip
import zlib

from dsl.diagnostics import fail
from dsl.files import data_file
from dsl.source import Span

MAX_BYTES = 256 * 2**20
"""Size of a data file, unpacked."""


def read_text(path: str, folder: str, span: Span | None) -> str:
    """The text of a file below the project's root; `.gz` is unpacked. `path` starts from `folder`.

    Raises E0704 where it is missing, outside of the project, too large, or not UTF-8.
    """
    real = data_file(path, folder, span)
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
