"""What happens when a process of a run ends, hangs, fails or does not come: an error that names it, by all, soon."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"layers": 1, "hidden": 8, "heads": 2, "vocab": 80, "seq": 8, "batch": 8, "dp": 3}
SMALL = ["examples/gpt.par", *(w for n, v in SIZES.items() for w in ("-D", f"{n}={v}" if n != "batch" else "batch=12"))]
PARC = [sys.executable, "-m", "parc", "run", *SMALL, "--engine", "torch"]
LATEST = 90.0
"""Seconds within which everything must have ended; some of that is the machine's."""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def children(pid: int) -> list[int]:
    """Processes that this one has started, in the order of their numbers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def training(*options: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run that has begun its steps, and its other processes."""
    command = [*PARC, "--steps", "1000000", *options]
    p = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored, where tests run in the background
    )  # fmt: skip
    others: list[int] = []
    try:
        assert p.stderr is not None
        assert p.stderr.readline().startswith("step ")
        others = children(p.pid)
        assert len(others) == 2
        yield p, others
    finally:
        for pid in (p.pid, *others):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        p.communicate()


def gone(pids: Sequence[int]) -> bool:
    """Whether all of them end."""
    last = time.monotonic() + LATEST
    while any(map(alive, pids)) and time.monotonic() < last:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_a_process_that_dies_is_named_by_all() -> None:
    with training() as (p, others):
        os.kill(others[1], signal.SIGKILL)
        _, told = p.communicate(timeout=LATEST)
        assert p.returncode == 1 and gone(others)
        error = re.escape(f"error[E0709]: process 2 ({others[1]} on {os.uname().nodename}) has ended")
        assert re.search("^" + error, told, re.M), told
        assert re.search("^process 1: " + error, told, re.M), told


@pytest.mark.nightly
def test_a_process_that_hangs_is_named() -> None:
    """Soon, too, where messages are waited for for seconds alone."""
    with training("--patience", "3") as (p, others):
        os.kill(others[0], signal.SIGSTOP)
        _, told = p.communicate(timeout=LATEST)
        assert p.returncode == 1 and gone(others)
        assert f"error[E0709]: process 1 ({others[0]} on" in told and "no longer answers" in told


def test_who_waits_inside_of_torch_for_one_that_hangs_ends_before_its_patience() -> None:
    """The message may be waited for for minutes: where it is known who is missing, the process ends all the same."""
    with training("--patience", "600") as (p, others):
        os.kill(others[0], signal.SIGSTOP)
        _, told = p.communicate(timeout=LATEST)
        assert p.returncode == 1 and gone(others)
        assert f"error[E0709]: process 1 ({others[0]} on" in told and "no longer answers" in told


def test_a_first_process_that_hangs_is_left() -> None:
    with training() as (p, others):
        os.kill(p.pid, signal.SIGSTOP)
        assert gone(others)
        p.kill()
        _, told = p.communicate(timeout=LATEST)
        assert all(f"process {r}: error[E0709]: process 0 no longer answers" in told for r in (1, 2)), told


def test_nobody_outlives_the_first_process() -> None:
    with training() as (p, others):
        p.kill()
        assert gone(others)


def test_an_interrupt_ends_all() -> None:
    with training() as (p, others):
        p.send_signal(signal.SIGINT)
        _, told = p.communicate(timeout=LATEST)
        assert p.returncode == 130 and gone(others)
        assert "interrupted" in told and "E0709" not in told


def descendants(pid: int) -> list[int]:
    """Children and their children."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def interrupted(command: list[str], after: float = 0.0, steps: bool = True) -> tuple[int, str]:
    """What comes of it and what it says when all of a terminal hear of Ctrl-C, some seconds after a start or, `steps`,
    after the first step has been told; nobody may be left."""
    p = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert p.stderr is not None
    while steps and not (said := p.stderr.readline()).startswith("step "):
        assert said, "it has ended"
    last = time.monotonic() + LATEST
    while not steps and len(descendants(p.pid)) < 2 and time.monotonic() < last:
        time.sleep(0.05)
    time.sleep(after)
    all_of_them = descendants(p.pid)
    assert len(all_of_them) >= 2
    os.killpg(p.pid, signal.SIGINT)
    try:
        _, told = p.communicate(timeout=LATEST)
        assert gone(all_of_them)
        return p.returncode, told
    finally:
        for pid in (pid for pid in (p.pid, *all_of_them) if alive(pid)):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("after", [pytest.param(0.0, marks=pytest.mark.nightly), 1.5])
def test_an_interrupt_while_processes_start_ends_all_without_a_word_of_theirs(after: float) -> None:
    code, told = interrupted([*PARC, "--steps", "1000000"], after, steps=False)
    lines = [line for line in told.splitlines() if line and not line.startswith("step ")]  # it may have begun
    assert code == 130 and lines == ["interrupted"], told


def test_an_interrupt_under_torchrun_ends_all() -> None:
    """torchrun hands it on and shows where it was itself; nobody blames another one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "-m", *PARC[2:]]
    code, told = interrupted([*command, "--steps", "1000000"])
    assert code == 1 and "E0709" not in told and "runtime/torch" not in told, told


def test_an_interrupt_ends_who_waits_inside_of_torch() -> None:
    """Python hears of no signal there, and the message that is waited for may take minutes."""
    with training("--patience", "600") as (p, others):
        os.kill(others[0], signal.SIGSTOP)
        time.sleep(1)
        start = time.monotonic()
        p.send_signal(signal.SIGINT)
        _, told = p.communicate(timeout=LATEST)
        assert p.returncode == 130 and gone(others) and "interrupted" in told
        assert time.monotonic() - start < 12, "not before the other one counted as silent"


def test_who_does_not_come_is_named() -> None:
    env = {**ENVIRONMENT, "RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([*PARC, "--patience", "2"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=LATEST)
    assert done.returncode == 1
    assert "error[E0709]: process 0 of 3 did not meet the others" in done.stderr and "1, 2 did not come" in done.stderr


def test_a_port_that_is_taken_and_one_that_nobody_listens_at() -> None:
    """Each says what to do, without pages of addresses inside of torch."""
    for rank, wanted in (("0", "choose another MASTER_PORT"), ("1", "nobody listens there")):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            if rank == "1":
                taken.close()
            seat = {"RANK": rank, "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            command, env = [*PARC, "--patience", "2"], {**ENVIRONMENT, **seat}
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LATEST)
        assert done.returncode == 1 and "error[E0709]" in done.stderr and wanted in done.stderr
        assert "frame #" not in done.stderr and len(done.stderr.splitlines()) < 5


def test_who_is_not_reached_where_he_says_he_is_hears_of_interfaces() -> None:
    """As gloo says it where a host's own name leads to 127.0.1.1."""
    from runtime.torch.launch import Seat
    from runtime.torch.missing import absent

    told = (
        "Gloo connectFullMesh failed with [pair.cc:152] timed out connecting: Connection refused, remote=[127.0.1.1]:9"
    )
    found = absent(Seat(1, 4, "10.0.0.1", 29500), RuntimeError(told)).diagnostics[0]
    assert found.code == "E0709" and "127.0.1.1" in found.message
    assert "GLOO_SOCKET_IFNAME" in (found.help or "")


def test_without_torch_npu_the_help_names_it() -> None:
    done = subprocess.run(
        [*PARC, "--device", "npu"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=LATEST
    )
    assert done.returncode == 1 and "error[E0710]" in done.stderr
    assert re.search(r"help: .*`torch_npu`.*torch 2\.", done.stderr)


def torchrun(processes: int, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", *PARC[2:]]
    return subprocess.run([*command, *options], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=180)


def test_torchrun_starts_them_too() -> None:
    """One answer, that of process 0, with the losses of the emulated run."""
    done = torchrun(3, "--steps", "3", "--json")
    assert done.returncode == 0, done.stderr
    command = [*PARC[:-2], "--steps", "3", "--json"]
    emulated = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    ours, theirs = (json.loads(text)["result"] for text in (done.stdout, emulated.stdout))
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
    for same in ("memory", "traffic", "devices", "name", "data"):
        assert ours[same] == theirs[same]


def test_the_wrong_number_of_processes() -> None:
    done = torchrun(2, "--steps", "3")
    assert done.returncode == 1 and "E0708" in done.stderr
    assert "has 3 devices, but there are 2 processes" in done.stderr


SECOND = """
import os, sys, time
from runtime.torch.launch import Seat
from runtime.torch.world import World

for turn in range(2):
    time.sleep(2 * turn * int(os.environ["RANK"]))
    world = World(Seat.given(), patience=30)
    print(world.answers(turn), flush=True)
    world.close()
"""


def test_a_second_run_under_torchrun_does_not_read_the_addresses_of_the_first(tmp_path: Path) -> None:
    """torchrun keeps its store: who comes first finds there where the others listened before."""
    file = tmp_path / "twice.py"
    file.write_text(SECOND)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(file)]
    env = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LATEST)
    assert done.returncode == 0, done.stderr
    assert "[0, 0]" in done.stdout and "[1, 1]" in done.stdout


def test_under_torchrun_all_others_name_who_was_killed() -> None:
    """torchrun ends them a tenth of a second later; each says before that, or then, who is missing."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "-m", *PARC[2:]]
    line = [*command, "--steps", "1000000"]
    p = subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert p.stderr is not None
        while not (said := p.stderr.readline()).startswith("step "):
            assert said, "it has ended"
        killed = children(p.pid)[-1]
        rank = Path(f"/proc/{killed}/environ").read_text().partition("\0RANK=")[2].partition("\0")[0]
        os.kill(killed, signal.SIGKILL)
        _, told = p.communicate(timeout=LATEST)
    finally:
        p.kill()
        p.wait()
    assert p.returncode == 1
    for other in {0, 1, 2} - {int(rank)}:
        who = f"process {other}: " if other else ""
        assert f"{who}error[E0709]: process {rank} ({killed} on {os.uname().nodename}) has ended" in told.splitlines()


def test_a_second_run_in_one_process_starts_others_again() -> None:
    """They have met for nothing before, whatever the first did. (Not in pytest's process, where others have met.)"""
    file, params = str(ROOT / "examples" / "gpt.par"), {**{k: str(v) for k, v in SIZES.items()}, "batch": "12"}
    text = f"""
import parc
from runtime.torch.engine import Engine

for _ in range(2):
    print(parc.run({file!r}, params={params!r}, steps=1, engine=Engine()).losses)
"""
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=LATEST)
    losses = done.stdout.splitlines()
    assert len(losses) == 2 and losses[0] == losses[1], done.stderr  # how it ends is PyTorch's affair
