"""The catalogue of error codes: what is raised has an entry, each entry is raised, its examples show what they say."""

from __future__ import annotations

import ast
import json
import re
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from dsl.codes import CODES
from dsl.source import Source
from parc import api
from parc.cli import cli
from parc.planning.answer import FoundPlan
from tests.planning.models import text_of

ROOT = Path(__file__).parent.parent.parent
CODE = re.compile(r"E\d{4}")


def raised() -> dict[str, set[str]]:
    """Code -> modules outside of the catalogue that have it as a string of its own."""
    found: dict[str, set[str]] = {}
    for package in ("dsl", "compiler", "runtime", "parc"):
        for file in (ROOT / package).rglob("*.py"):
            if (ROOT / "dsl" / "codes") in file.parents:
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
                    found.setdefault(node.value, set()).add(str(file.relative_to(ROOT)))
    return found


def test_every_code_that_is_raised_has_an_entry() -> None:
    assert {code: where for code, where in raised().items() if code not in CODES} == {}


def test_every_entry_is_raised() -> None:
    assert sorted(CODES.keys() - raised().keys()) == []


def test_pages_speak_of_codes_that_there_are() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    unknown = {code for page in pages for code in re.findall(r"\bE\d{4}\b", page.read_text())} - CODES.keys()
    assert unknown == set()


@pytest.mark.parametrize("code", CODES)
def test_explain(code: str) -> None:
    shown = CliRunner().invoke(cli, ["explain", code.lower()])
    entry = CODES[code]
    assert shown.exit_code == 0 and shown.stdout.startswith(f"{code}: {entry.title}\n")
    assert entry.explanation.strip() in shown.stdout
    assert "This has it:" in shown.stdout and "This does not:" in shown.stdout
    assert entry.failing != entry.mended


def findings(text: str, code: str, folder: Path) -> list[str]:
    """Codes that the command reports for an example. Its first lines `# -…` are options, `# NAME=…` the environment."""
    file = folder / ("main.npu" if text.startswith("program ") else "main.par")
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    lines = [line.removeprefix("# ").split() for line in text.splitlines() if re.match(r"# (-|[A-Z_]+=)", line)]
    options = [word for line in lines for word in line if line[0].startswith("-")]
    environment = dict(word.split("=", 1) for line in lines for word in line if not line[0].startswith("-"))
    run = ["run", "--steps", "1"]
    families = {"E07": run, "E08": ["cost"], "E10": ["init", "--from"]}
    own = {"E0910": run, "E0932": run, "E0933": ["cost"], "E0951": ["plan"], "E0802": ["plan"], "E0803": ["plan"]}
    own["E0788"] = ["generate", "--prompt", "abcdefgh", "--prompt", "abcdefgh", "--steps", "1"]
    own |= dict.fromkeys(("E0783", "E0784", "E0785", "E0786"), ["generate", "--prompt", "ab", "--steps", "1"])
    own["E0787"] = ["generate", "--prompt", "ab", "--steps", "1", "--draft", "main.par"]
    own["E0751"] = ["serve", "--check", "--port", "0"]
    if code.startswith("E11"):
        shutil.copy(folder / "planned.par", file)
        stated = laid_over(json.loads((folder / "whole.json").read_text()), json.loads(text))
        (folder / "it.json").write_text(json.dumps(stated))
        own[code] = ["check", "--certificate", str(folder / "it.json")]
    command = own.get(code) or families.get(code[:3], ["check"])
    result = CliRunner().invoke(cli, [*command, str(file), "--json", *options], env=environment)
    found = json.loads(result.stdout)
    errors = [d for d in found["diagnostics"] if d["severity"] == "error"]
    assert result.exit_code == found["exit"] == (0 if not errors else 4 if code.startswith(("E09", "E0608")) else 1)
    return sorted({d["code"] for d in found["diagnostics"]})


@cache
def certified_plan() -> dict[str, str]:
    """A plan and its certificate, whole."""
    found = api.plan(Source("job.par", text_of("layers", batch=2, outside=1, memory=16)), within=None)
    assert isinstance(found, FoundPlan)
    return {"planned.par": found.text, "whole.json": json.dumps(found.certificate)}


def laid_over(whole: object, part: object) -> object:
    """The one with what the other states in its place, in lists by position."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return {k: laid_over(v, part[k]) if k in part else v for k, v in whole.items()}
    if isinstance(whole, list) and isinstance(part, list):
        return [laid_over(v, p) for v, p in zip(whole, part)] + whole[len(part) :]
    return part


SAVED = ("E0771", "E0772", "E0774")
"""Their examples have a checkpoint, `saved`, of the example without an error. E0771's is damaged."""


def prepared(code: str, folder: Path, damaged: bool) -> None:
    """Make what the example needs."""
    if code.startswith("E11"):
        for name, text in certified_plan().items():
            (folder / name).write_text(text)
    if code not in SAVED:
        return
    shutil.rmtree(folder / "saved", ignore_errors=True)
    file = folder / "before.par"
    file.write_text(CODES[code].mended)
    done = CliRunner().invoke(cli, ["run", str(file), "--steps", "1", "--save", str(folder / "saved")])
    assert done.exit_code == 0, done.stderr
    if damaged and code == "E0771":
        (shard,) = (folder / "saved").glob("*/device-*.safetensors")
        content = bytearray(shard.read_bytes())
        content[-3] ^= 4
        shard.write_bytes(content)


EARLIER = {"E0702": "E0641", "E0703": "E0615"}
"""What a run would find: the command verifies a program before it runs it (tests/runtime runs them all the same)."""

if find_spec("torch") is None:
    EARLIER["E0709"] = "E0710"


@pytest.mark.parametrize("code", CODES)
def test_the_failing_example_has_the_error_and_the_mended_one_has_none(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(code, tmp_path, True)
    assert findings(CODES[code].failing, code, tmp_path) == [EARLIER.get(code, code)]
    prepared(code, tmp_path, False)
    assert findings(CODES[code].mended, code, tmp_path) == []
