"""Mutants of what is stored: checkpoints (manifests, files of arrays, with digests that are right and without),
published models and their configurations, certificates of plans. A byte that is another one is found; what `init`
writes, `check` takes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

from tests.fuzz.bundles import Scene, Scenes
from tests.fuzz.cell import Cell
from tests.fuzz.file_mutants import changed, mutant

_JOB = """\
use std.layers (cross_entropy)
use std.optimizers (adamw)
use std.tactics (data_parallel, optimizer_parallel)
model m() {
  dim b = 4, s = 4, v = 12, d = 4
  input tokens, targets : int32[b,s] in 0..v
  weight table[v,d]
  x[b,s,d] = take(table, tokens, over v)
  repeat 2 as block {
    dim e = 4
    weight w[d,e]
    x = x + rename(tanh(x @ w), e -> d)
  }
  logits[b,s,v] = x @ table
  output logits
  loss cross_entropy(logits, targets, over v)
}
strategy two for m {
  mesh (dp = 2)
  data_parallel(dp)
  optimizer_parallel(dp, 1)
}
job fit {
  train m() using two
  optimizer adamw(lr = 0.01)
}
job serve {
  infer m()
}
"""
_MANIFEST = "ck/manifest.json"
_SLOW = {"flops": 0.01, "bandwidth": 1, "inner": 0.1, "outer": 0.01, "outside": 1, "batch": 2}
_SHARES = 4
"""One in so many mutants is also looked at by what takes longer."""

_PACKED = ("gptq", "awq", "compressed")


def scenes() -> Scenes:
    """A checkpoint of two devices, published models plain and packed, a plan's certificate, a configuration of each
    family."""
    from tests.importing.small import SMALL

    return Scenes([
        _checkpoint(), _public("gpt2"), *map(_public, _PACKED), _plan(),
        *(_configuration(name, config, 3.0 / len(SMALL)) for name, config in SMALL.items()),
    ])  # fmt: skip


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _made(*commands: tuple[str, ...], given: Mapping[str, bytes]) -> dict[str, bytes]:
    """What commands leave in a folder."""
    from click.testing import CliRunner

    from parc.cli import cli

    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for path, content in given.items():
            (folder / path).write_bytes(content)
        for command in commands:
            found = CliRunner().invoke(cli, [word.replace("@", f"{name}/") for word in command])
            assert found.exit_code == 0, found.output
        return _files(folder)


def _some(file: str, of: int = _SHARES) -> bool:
    """Whether this mutant, which is now in the file, is one of the few."""
    return crc32(Path(file).read_bytes()) % of == 0


# --- checkpoints ------------------------------------------------------------------------------------------


def _checkpoint() -> Scene:
    files = _made(
        ("run", "@job.par", "--job", "fit", "--steps", "1", "--save", "@ck"), given={"job.par": _JOB.encode()}
    )
    step = next(name.split("/")[1] for name in files if name.startswith("ck/"))
    files = {name.replace(f"{step}/", ""): content for name, content in files.items()}
    weights = {name: 4.0 if name == _MANIFEST else 1.0 for name in files if name.startswith("ck/")}
    return Scene("checkpoint", files, weights, _resumed, _manifest, 3.0)


def _manifest(name: str, content: bytes, rng: Random) -> bytes:
    """A mutant; two of three manifests say the digest that is then theirs."""
    if name != _MANIFEST or rng.random() < 0.33:
        return mutant(name, content, rng)
    body = json.loads(content)["checkpoint"]
    for _ in range(rng.choice((1, 1, 2))):
        body = changed(body, rng)
    inner = json.dumps(body, separators=(",", ":"))
    return f'{{"sha256":"{_digest(inner.encode())}","checkpoint":{inner}}}'.encode()


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def _resumed(cell: Cell, scene: Scene, file: str) -> None:
    content, before = Path(file).read_bytes(), scene.files[file]
    told = _again_right(scene, file, content)
    same = content == before or (not told and _body(content) is not None and _body(content) == _body(before))
    ways = [("run", "job.par", "--job", "fit", "--steps", "2", "--resume", "ck", "--json")]
    if _some(file):
        ways.append(("evaluate", "job.par", "--job", "fit", "--steps", "1", "--from", "ck"))
    elif _some(file, 3):
        ways.append(("convert", "ck", "--to", "job.par", "--job", "serve", "-o", "out"))
    elif _some(file, 7):
        ways.append(("convert", "ck", "--to", "job.par", "--job", "serve", "--plan"))
    needed = file != "ck/device-00001.safetensors"  # which has states of the optimizer alone
    for way in ways:
        code, said = cell.command(*way)
        if not code and not same and not told and (way[0] == "run" or (needed and "--plan" not in way)):
            cell.wrong("damage not found", way[0], said)


def _body(content: bytes) -> Any:
    """What a manifest says."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        return json.dumps(json.loads(content)["checkpoint"])
    return None


def _again_right(scene: Scene, file: str, content: bytes) -> bool:
    """Whether digests say that all is as it was written: half of the files of arrays have their own in the manifest."""
    if file == _MANIFEST:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            found = json.loads(content)
            inner = json.dumps(found["checkpoint"], separators=(",", ":"))
            return bool(found["sha256"] == _digest(inner.encode()))
        return False
    if not _some(file, 2):
        return False
    body = json.loads(scene.files[_MANIFEST])["checkpoint"]
    for entry in body["files"]:
        if f"ck/{entry['name']}" == file:
            entry |= {"bytes": len(content), "sha256": _digest(content)}
    inner = json.dumps(body, separators=(",", ":"))
    Path(_MANIFEST).write_text(f'{{"sha256":"{_digest(inner.encode())}","checkpoint":{inner}}}')
    return True


# --- published models -------------------------------------------------------------------------------------


def _public(kind: str) -> Scene:
    """A folder as others write it: of gpt2 in two files with an index, of a llama whose matrices are packed."""
    from tests.importing.small import SMALL
    from tests.importing.test_quantised import folder_of

    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name) / "it"
        folder.mkdir()
        if kind in _PACKED:
            folder_of(kind, folder)
        else:
            _indexed(folder, SMALL[kind])
        files = _files(Path(name))
    return Scene(kind, files, dict.fromkeys(files, 1.0), _read, weight=0.75)


def _indexed(folder: Path, config: Mapping[str, Any]) -> None:
    import numpy as np

    from dsl.files import load
    from parc.importing.importing import public_names
    from runtime.checkpoints.public import INDEX
    from runtime.checkpoints.shard_file import safetensors_header

    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "n_layer": 1}))
    tensors = list(public_names(load(folder / "config.json")).tensors())
    half, places = len(tensors) // 2, {}
    for number, part in enumerate((tensors[:half], tensors[half:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        head = safetensors_header("pt", [(t.name, "f32", t.shape) for t in part])
        (folder / file).write_bytes(head + b"".join(np.ones(t.shape, np.float32).tobytes() for t in part))
        places |= {t.name: file for t in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


def _read(cell: Cell, scene: Scene, file: str) -> None:
    """All arrays are those of the configuration, in their shapes; or what is wrong has a code."""
    from parc.importing.weights import public_model

    arrays = _coded(cell, "read", lambda: (model := public_model(Path("it"))) and (model, model.arrays()))
    if arrays is None:
        return
    model, found = arrays
    for name, tensor in model.manifest.tensors.items():
        if found[name].shape != tensor.shape:
            cell.wrong("another shape", "arrays", f"{name}: {found[name].shape} instead of {tensor.shape}")


def _coded(cell: Cell, stage: str, ask: Callable[[], Any]) -> Any:
    """What is answered; None where that is an error with a code."""
    from dsl.diagnostics import ParcError

    cell.stage(stage)
    try:
        return ask()
    except ParcError as error:
        if any(not d.code for d in error.diagnostics):
            cell.wrong("no code", stage, str(error))
        return None


# --- plans and configurations -----------------------------------------------------------------------------


def _plan() -> Scene:
    from tests.planning.models import text_of

    given = {"job.par": text_of("tables", **_SLOW).encode()}
    files = _made(
        ("plan", "@job.par", "--within", "2s", "-o", "@planned.par", "--certificate", "@plan.json"), given=given
    )
    return Scene("plan", files, {"plan.json": 1.0}, _held, weight=0.5)


def _held(cell: Cell, scene: Scene, file: str) -> None:
    code, said = cell.command("check", "planned.par", "--certificate", file)
    if code or Path(file).read_bytes() == scene.files[file]:
        return
    found, before = (dict(_leaves(json.loads(c))) for c in (Path(file).read_bytes(), scene.files[file]))
    for path, value in before.items():
        other = found.get(path)
        free = path[0] == "seconds" or (path[0] == "best" and path[2:3] == ("bound",))
        if not free and (type(other), other) != (type(value), value) and not _near(other, value):
            cell.wrong(
                "another certificate", ".".join(map(str, path)), f"{other!r:.300} in the place of {value!r:.300}"
            )


def _near(a: Any, b: Any) -> bool:
    """Numbers that are told alike: a whole one in another type, a float but for its last digits."""
    return type(a) in (int, float) and type(b) in (int, float) and abs(a - b) <= 1e-6 * abs(b)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from _leaves(part, (*path, key))
    if not isinstance(value, dict | list):
        yield path, value


def _configuration(name: str, config: Mapping[str, Any], weight: float) -> Scene:
    files = {"config.json": json.dumps(config).encode()}
    return Scene(f"config {name}", files, {"config.json": 1.0}, _imported, weight=weight)


def _imported(cell: Cell, scene: Scene, file: str) -> None:
    cluster = ("--cluster", "4 h100") if _some(file, 3) else ()
    code, _ = cell.command("init", "--from", file, "-o", "job.par", *cluster)
    if code or not _some(file, 40):
        return
    code, said = cell.command("check", "job.par")
    if code:
        cell.wrong("late", "check of what init wrote", said)
