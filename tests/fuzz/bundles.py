"""Files that lie together, one of which is a mutant: what a command reads of others, beside the job that reads it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from tests.fuzz.cell import Cell
from tests.fuzz.file_mutants import mutant

Mutate = Callable[[str, bytes, Random], bytes]
"""The content of a file as another. What is given: its name, its content."""


@dataclass(frozen=True)
class Scene:
    """files: by their paths in a folder; changing: which of them are mutated, and how often each; judge: what is done
    in that folder, where the named file has another content than the scene says."""

    name: str
    files: Mapping[str, bytes]
    changing: Mapping[str, float]
    judge: Callable[[Cell, Scene, str], None]
    mutate: Mutate = mutant
    weight: float = 1.0


@dataclass(frozen=True)
class Scenes:
    """Of a kind."""

    all: Sequence[Scene]

    @cached_property
    def named(self) -> dict[str, Scene]:
        """Each by its name."""
        return {s.name: s for s in self.all}

    def draw(self, rng: Random) -> str:
        """A mutant as text: a line that names the scene and the file, and its bytes, each as a character."""
        scene = rng.choices(self.all, [s.weight for s in self.all])[0]
        file = rng.choices(list(scene.changing), list(scene.changing.values()))[0]
        content = scene.mutate(file, scene.files[file], rng)
        return f"# {scene.name}: {file}\n{content.decode('latin-1')}"

    def warm(self) -> None:
        """Judge each scene as it is, of those that are judged alike one, in this process, which has then loaded all
        that its mutants need.

        AssertionError where one of them fails: its mutants would show nothing.
        """
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            for scene in {s.judge: s for s in reversed(self.all)}.values():
                file = next(iter(scene.changing))
                text = f"# {scene.name}: {file}\n{scene.files[file].decode('latin-1')}"
                self.case(text, Path(folder))(_Here(scene.name))

    def case(self, text: str, folder: Path) -> Callable[[Cell], None]:
        """What is done with a mutant, in a cell."""

        def run(cell: Cell) -> None:
            head, _, content = text.partition("\n")
            name, _, file = head.removeprefix("# ").partition(": ")
            scene = self.named.get(name)
            if scene is None or file not in scene.files or any(ord(c) > 255 for c in content):
                return
            own, before = folder / str(os.getpid()), os.getcwd()
            try:
                for path, given in (scene.files | {file: content.encode("latin-1")}).items():
                    (own / path).parent.mkdir(parents=True, exist_ok=True)
                    (own / path).write_bytes(given)
                os.chdir(own)
                scene.judge(cell, scene, file)
            finally:
                os.chdir(before)
                shutil.rmtree(own, ignore_errors=True)

        return run


class _Here(Cell):
    """A cell of this very process, where nothing may be wrong."""

    def __init__(self, name: str) -> None:
        self.name, self.took = name, 0.0

    def tell(self, **what: Any) -> None:
        pass

    def stage(self, name: str) -> None:
        pass

    def wrong(self, kind: str, where: str, detail: str = "") -> NoReturn:
        raise AssertionError(f"{self.name}: {kind} at {where}: {detail}")

    def command(self, *args: str) -> tuple[int, str]:
        from click.testing import CliRunner

        from parc.cli import cli

        found = CliRunner().invoke(cli, list(args))
        assert found.exit_code == 0, f"{self.name}: {' '.join(args)}: {found.output}"
        return 0, found.output
