"""Reads data files as text, block by block: ordinary ones, inside the project, of bounded size."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator

from compiler.model import DataSpec
from dsl.diagnostics import ParcError, fail
from dsl.units import Quantity
from runtime.data.stored import DataFile

MAX_BYTES = 256 * 2**20
"""Size of a data file, unpacked, unless the job's `limit` says otherwise."""

MAX_LONG = 2**20
"""Characters of a row, or of a word."""

_BLOCK = 2**18
_EMPTY = re.compile(r"\n{2,}|(?:\r\n){2,}")
_MOST_PACKED = 1032
"""Bytes that one byte of an archive can become (deflate)."""


class TextFile:
    """A text below the project's root; `.gz` is unpacked. size: of the text, in bytes.

    Raises E0704 where it is missing, outside of the project, not UTF-8 or no archive, E0760 where it is too large: of
    an archive that is found out by unpacking it once, which keeps nothing.
    """

    def __init__(self, spec: DataSpec) -> None:
        self.path, self.span = str(spec.path), spec.span
        limit = dict(spec.options).get("limit")
        self.limit = int(limit.value) if isinstance(limit, Quantity) else MAX_BYTES
        self.file = DataFile.find(self.path, spec.folder, spec.span)
        self.packed = self.file.real.endswith(".gz")
        if self.file.size > self.limit:
            raise self._too_large(f"it has {self.file.size:,}")
        self.read = 0
        """Bytes of the text that the pass under way has read."""
        self.size = sum(map(len, self._bytes())) if self.packed else self.file.size

    def _too_large(self, what: str) -> ParcError:
        help = (
            "`limit = 2 GiB` among the arguments of the reader raises it (a text takes up to three times its bytes of "
            "memory); `tokens`, `arrays` and `raw` read files of any size piece by piece"
        )
        return self.too_much(f"{what}, the limit is {self.limit:,} bytes", help)

    def too_much(self, what: str, help: str) -> ParcError:
        """E0760."""
        return fail("E0760", f"the data file `{self.path}` is too large: {what}", self.span, help=help)

    def _bytes(self) -> Iterator[bytes]:
        """The text, undecoded."""
        try:
            with io.BufferedReader(_Positioned(self.file), _BLOCK) as plain:
                file = gzip.GzipFile(fileobj=plain, mode="rb") if self.packed else plain
                self.read = 0
                while block := file.read(_BLOCK):
                    self.read += len(block)
                    if self.read > self.limit:
                        raise self._too_large("unpacked it has more")
                    yield block
        except (OSError, EOFError, zlib.error) as error:
            raise fail("E0704", f"cannot read the data file `{self.path}`: {error}", self.span) from None

    def blocks(self) -> Iterator[str]:
        """The text, from its beginning; a byte-order mark is none of it."""
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        done = 0
        try:
            for block in self._bytes():
                before = done - len(decoder.getstate()[0])
                yield decoder.decode(block)
                done += len(block)
            before = done - len(decoder.getstate()[0])
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            at = before + error.start
            raise fail("E0704", f"the data file `{self.path}` is not UTF-8 text (byte {at})", self.span) from None

    def lines(self) -> Iterator[str]:
        """Its lines, with their ends; E0760 for one of more than MAX_LONG characters.

        Empty ones are left out at once, where nothing is in quotes: a small archive can have very many.
        """
        held: list[str] = []
        waiting, quoted = 0, False
        for block in self.blocks():
            quoted = quoted or '"' in block
            block = block if quoted else _EMPTY.sub("\n", block)
            first, *others = block.split("\n")
            held.append(first)
            waiting += len(first)
            if others:
                yield "".join(held) + "\n"
                yield from (line + "\n" for line in others[:-1])
                held, waiting = [others[-1]], len(others[-1])
            if waiting > MAX_LONG:
                raise self.too_long("row")
        if waiting:
            yield "".join(held)

    def too_long(self, what: str) -> ParcError:
        """E0760 for a row or a word."""
        help = "`arrays` and `raw` read examples of any size, from `.npy`, safetensors and raw files"
        return self.too_much(f"a {what} of it has more than {MAX_LONG:,} characters, which is the limit", help)


class _Positioned(io.RawIOBase):
    """An open file from its beginning, at a position of its own."""

    def __init__(self, file: DataFile) -> None:
        self.file, self.at = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        got = os.preadv(self.file.opened(), [buffer], self.at)
        self.at += got
        return got
