"""`offload` that is refused, proposed, and programs with moves that are wrong."""

from __future__ import annotations

import re

import pytest

from compiler.text import parse_located, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from parc.memory import capacities, of_stack
from parc.remedies import changes, remedies
from parc.room import require_room
from tests.memory.test_offload import MOVED, compiled, on_cluster, text


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("E0412", text("offload optimizer to disk")),
        ("E0412", on_cluster(text(MOVED)).replace("host memory 1 MiB, 200 GB/s over host * 1 GB/s\n", "")),
        ("E0403", text("offload gradients to host")),
        ("E0403", text("offload optimiser to host")),
        ("E0404", text("offload optimizer to host in blok")),
        ("E0570", text("offload optimizer to host prefetch -1")),
        ("E0570", text("offload optimizer to host prefetch 1000")),
        ("E0210", text("offload optimizer to host prefetch 0.5")),
        ("E0542", text(MOVED, optimizer="sgd(lr = 0.1)")),
        ("E0542", text(f"{MOVED}; offload optimizer to nvme in block")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_where_it_stands(code: str, found: str) -> None:
    with pytest.raises(ParcError) as raised:
        compiled(found.replace("split b on dp", ""))
    assert code in [d.code for d in raised.value.diagnostics]
    d = next(d for d in raised.value.diagnostics if d.code == code)
    assert d.span is not None and "offload" in found[: d.span.end].rpartition("\n")[2]
    assert d.help or code == "E0210"


def test_it_is_proposed_where_a_job_is_too_large() -> None:
    """The states alone are enough; a cluster without such a memory has no use of it."""
    small = on_cluster(text("", "dp = 1").replace("layers = 4, hidden = 8", "layers = 8, hidden = 64"), 1)
    small = small.replace("device gpu = a100_80", "device gpu = small").replace(
        "host memory 1 MiB", "host memory 1 GiB"
    )
    small += "device small {\n  compute f32 1 TFLOP/s\n  memory 3 MB, 100 GB/s\n}\n"
    job = compiled(small)
    there = capacities(job.job)
    assert not of_stack(job).fit(there)
    found = remedies(job, there)
    assert ("offload optimizer to host",) in [r.rules for r in found.found]
    alone = compiled(re.sub(r"  (host|nvme) .*over.*\n", "", small))
    assert not any("offload" in c.rule for c in changes(alone, of_stack(alone)))


def test_of_hosts_whose_memory_is_full_nothing_is_said_of_the_devices() -> None:
    """It is not the emulator's values that are too large: the price says that the job does not fit, too."""
    full = on_cluster(text("offload optimizer to host", "dp = 1"), 1).replace("host memory 1 MiB", "host memory 1 KiB")
    with pytest.raises(ParcError) as caught:
        require_room(compiled(full))
    (error,) = caught.value.diagnostics
    assert error.code == "E0701" and "of host" in error.message
    assert error.notes and not any("the job fits" in note for note, _ in error.notes)


# --- programs that are wrong -----------------------------------------------------------------------------------------

BROKEN = {
    "nothing stands ahead of it": ("host to hbm ahead 1", "host to hbm ahead -1", "E06"),
    "what takes its place is elsewhere": (
        "move %update_1.m_1.slice, %update_1.m.slice from",
        "move %update_1.m_1.slice, %update_1.g.slice from",
        "E0619",
    ),
    "what is made is not there ahead": (
        "%update_1.m.slice from hbm to host",
        "%update_1.m.slice from hbm to host ahead 1",
        "E0619",
    ),
    "another type": (
        "move %update_1.m_1.slice, %update_1.m.slice from",
        "move %update_1.m_1.slice, %update_1.factor.same from",
        "E0612",
    ),
    "computed elsewhere": ("mul 0.9, %update_1.m.here", "mul 0.9, %update_1.m.slice", "E0619"),
    "written from here": ("yield %update_1.m_1.away,", "yield %update_1.m_1.slice,", "E0619"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "code"), BROKEN.values(), ids=BROKEN)
def test_wrong_moves_are_found(old: str, new: str, code: str) -> None:
    """By the verifier, or by the parser."""
    found = show(compiled(text(f"{MOVED} prefetch 1", "dp = 1")).program)
    assert old in found
    try:
        codes = {d.code for d in verify(*parse_located(found.replace(old, new)))}
    except ParcError as error:
        codes = {d.code for d in error.diagnostics}
    assert any(c.startswith(code) for c in codes), codes
