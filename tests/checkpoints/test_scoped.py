"""`--from SCOPE=CHECKPOINT`: a scope's weights, by their own names or by those of a model that is what the scope is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import parc
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.keeping import Keeping, scope_of
from runtime.checkpoints.reading import Checkpoint
from runtime.checkpoints.saving import Saving

TEXT = """\
use std.optimizers (sgd)
use std.tactics (data_parallel)

model net(width) {
  dim b = 4, d = 6, f = width
  input x : f32[b,d]
  weight w[d,f], u[f,d]
  y = (x @ w) @ u
  output y
  loss mean(y * y)
}

model both() {
  dim b = 4, d = 6
  input x : f32[b,d]
  aim = net(4, x = x) as teacher
  y = net(3, x = x) as student
  loss mean((y - aim) * (y - aim))
}

strategy halves for net {
  mesh (dp = 2)
  data_parallel(dp)
}

strategy apart for both {
  mesh (tp = 2)
  split f on tp in teacher
  split b on tp in student
}

job teach {
  train net(4) using halves
  optimizer sgd(lr = 0.1)
}

job learn {
  train both using apart
  optimizer sgd(lr = 0.1)
  frozen teacher
}
"""


def ran(source: Source, job: str, steps: int, folder: Path, given: str | None = None) -> None:
    parc.run(source, steps, job=job, keeping=Keeping(Saving(folder), given=given))


def test_a_model_trained_by_itself_is_a_teacher(tmp_path: Path) -> None:
    source = Source("net.par", TEXT)
    taught, learned, again = (tmp_path / name for name in ("taught", "learned", "again"))
    ran(source, "teach", 2, taught)
    ran(source, "learn", 2, learned, f"teacher={taught}")
    first, then = (Checkpoint.latest(f).arrays() for f in (taught, learned))
    for name in ("w", "u"):
        assert np.array_equal(then[f"teacher.{name}"], first[name])
    ran(source, "learn", 1, again, f"teacher={learned}")  # by its own names
    last = Checkpoint.latest(again).arrays()
    assert np.array_equal(last["teacher.w"], first["w"]) and not np.array_equal(last["student.w"], then["student.w"])
    wrong = {"student": "`student.w` is 6 x 4 in", "nobody": "no weight of `learn` is in"}
    for given, told in ((f"{scope}={taught}", told) for scope, told in wrong.items()):
        with pytest.raises(ParcError, match="E0772") as error:
            ran(source, "learn", 1, tmp_path / "none", given)
        assert told in str(error.value)


def test_what_is_a_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert scope_of("a.b=c/d") == ("a.b", "c/d") and scope_of("./a=b") == (None, "./a=b") == scope_of("./a=b")
    assert scope_of("a") == (None, "a") and scope_of("a=") == (None, "a=")
    (tmp_path / "a=b").mkdir()
    assert scope_of("a=b") == (None, "a=b")
