"""How a sentence encoder makes one vector of a text, as the files beside its configuration say (`modules.json`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from dsl.data import dataclass
from dsl.diagnostics import fail
from parc.importing.config import Config

MODULES, LENGTHS = "modules.json", "sentence_bert_config.json"
"""What is computed one after the other; how long texts are at most."""

_MOST_BYTES = 2**20
_MODES = {"mean": "mean", "cls": "first"}
_FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


@dataclass(frozen=True, slots=True)
class Pooling:
    """kind: `mean` of a text's positions, or its `first`; normalised: whether vectors have length 1; longest: how many
    positions texts have at most (0: as many as the model); told: whether the files say so."""

    kind: str = "mean"
    normalised: bool = True
    longest: int = 0
    told: bool = False


def pooling_of(config: Config) -> Pooling:
    """What the files beside a configuration say; the mean, of length 1, where there are none.

    Raises ParcError: E1005 where they make no sense, E1004 for what there are no words for.
    """
    if config.source.path is None:
        return Pooling()
    folder = Path(config.source.path).parent
    modules = _read(config, folder / MODULES, list)
    if modules is None:
        return Pooling()
    kinds: list[tuple[str, str]] = []
    for module in modules:
        kind, path = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            _wrong(config, f"`{MODULES}` has a module without a `type` and a `path`")
        kinds.append((kind.rpartition(".")[2], path))
    names = [name for name, _ in kinds]
    if names[:2] != ["Transformer", "Pooling"] or names[2:] not in ([], ["Normalize"]):
        _refuse(
            config, f"`{MODULES}`: {', '.join(names)[:80] or 'nothing'}", "a transformer, pooling, a norm of length"
        )
    path = kinds[1][1]
    if Path(path).is_absolute() or ".." in Path(path).parts:
        _wrong(config, f"`{MODULES}` names the folder `{path[:60]}`, which is not below its own")
    said = _read(config, folder / path / "config.json", dict)
    if said is None:
        _wrong(config, f"`{MODULES}` names the folder `{path[:60]}`, which has no `config.json`")
    on = _modes(said)
    if len(on) != 1 or on[0] not in _MODES:
        what = ", ".join(on)[:80] or "no pooling"
        _refuse(config, f"`{path}`: {what}", f"one of {', '.join(_MODES)} (`pooling_mode`), or of {', '.join(_FLAGS)}")
    lengths = _read(config, folder / LENGTHS, dict) or {}
    longest = lengths.get("max_seq_length") or 0
    if isinstance(longest, bool) or not isinstance(longest, int) or not 0 <= longest < 2**31:
        _wrong(config, f"`{LENGTHS}`: `max_seq_length` is no number of positions")
    return Pooling(_MODES[on[0]], names[2:] == ["Normalize"], longest, True)


def _modes(said: dict[str, Any]) -> list[str]:
    """How vectors are made of positions: as newer versions of `sentence-transformers` say it (6.2: `pooling_mode`, one
    or several; flags do not count beside it), or as older ones do (a flag for each)."""
    if "pooling_mode" in said:
        modes = said["pooling_mode"]
        return [str(mode) for mode in modes] if isinstance(modes, list) else [str(modes)]
    return [_FLAGS.get(key, key) for key, on in sorted(said.items()) if key.startswith("pooling_mode_") and on is True]


def _read(config: Config, path: Path, kind: type) -> Any:
    """What a file has; None where it is not there."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError("it is too large")
        found = json.loads(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        _wrong(config, f"`{path.name}` beside it cannot be read: {error}")
    if not isinstance(found, kind):
        _wrong(config, f"`{path.name}` beside it is not what such files are")
    return found


def _wrong(config: Config, message: str) -> NoReturn:
    raise fail("E1005", message, config.span())


def _refuse(config: Config, what: str, known: str) -> NoReturn:
    raise fail("E1004", f"{what} is not supported", config.span(), help=f"known is {known}")
