"""`parc diff --entry`: what a job does with positions by themselves, which its forward pass says nothing of."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from parc.cli import cli
from tests.stored.test_caches import GROUPED, NET, TP


def test_caches_show_in_the_entries_that_have_them(tmp_path: Path) -> None:
    """Caches in pages change nothing of the forward pass; whoever compares that is told which entry it was."""
    files = []
    for name, rule in (("rows", ""), ("pages", "  store caches as paged(slots = 4, pages = 6)\n")):
        path = tmp_path / f"{name}.par"
        path.write_text(NET.replace("LAYER", GROUPED).replace("RULES", TP + rule))
        files.append(str(path))
    same = CliRunner().invoke(cli, ["diff", *files, "--exit-code"])
    assert same.exit_code == 0 and not same.stdout and "the entry `infer`" in same.stderr
    for entry in ("prefill", "decode"):
        found = CliRunner().invoke(cli, ["diff", *files, "--exit-code", "--entry", entry])
        assert found.exit_code == 1 and "key.cache: f64[block=2, b=2, t=12, h=1/tp, k=8] -> f64[" in found.stdout
    lowered = tmp_path / "pages.npu"
    lowered.write_text(CliRunner().invoke(cli, ["compile", files[1], "--entry", "decode"]).stdout)
    again = CliRunner().invoke(cli, ["diff", str(lowered), files[1], "--exit-code", "--entry", "decode"])
    assert again.exit_code == 0, again.output
