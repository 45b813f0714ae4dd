"""The user's cache folder: what is kept there may be lost, and is only trusted where nobody else could have put it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path


def cache_folder(kind: str, make: bool = True) -> Path | None:
    """A folder for things of a kind that is this user's alone, made if it is missing (make); None if there is none."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
        if sys.platform == "darwin" and not base:
            root = Path.home() / "Library" / "Caches"
        folder = root / "parc" / kind
        for part in (folder.parent, folder) if make else ():
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = is_mine(folder, directory=True) and is_mine(folder.parent, directory=True)
        return folder if mine and os.access(folder, os.W_OK) else None
    except (OSError, RuntimeError):  # no home
        return None


def is_mine(path: Path, directory: bool = False) -> bool:
    """Whether it is there, no link, this user's, and nobody else's to write to."""
    try:
        found = path.lstat()
    except OSError:
        return False
    right = stat.S_ISDIR(found.st_mode) if directory else stat.S_ISREG(found.st_mode)
    return right and found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
