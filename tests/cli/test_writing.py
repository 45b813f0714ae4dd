"""`-o`: files are whole or not there, nothing that is read is lost, and no signal leaves anything behind."""

from __future__ import annotations

import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from parc.cli import cli
from parc.cli.writing import write_file
from tests.cli.test_contract import CLUSTERED

ROOT = Path(__file__).parent.parent.parent
WRITERS = ("compile", "trace", "report")

MAIN = (
    'use "parts/sgd.par" (sgd)\n'
    + CLUSTERED.replace("optimizer sgd(lr) {\n  w = w - lr * g\n}\n", "").replace(
        "job fit {", 'param corpus = "rows.csv"\n\njob other {\n  train mlp(width)\n  data csv(corpus)\n'
        '  optimizer sgd(lr = 0.1)\n}\n\njob fit {\n  data csv("../x.csv")'
    )
)  # fmt: skip
"""Uses a file, which uses another one; one job has data beside it, another where a parameter says."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose main file is `src/main.par`."""
    (tmp_path / "pyproject.toml").touch()
    src = tmp_path / "src"
    (src / "parts").mkdir(parents=True)
    (src / "main.par").write_text(MAIN)
    (src / "parts" / "sgd.par").write_text('use "more.par"\noptimizer sgd(lr) {\n  w = w - lr * g\n}\n')
    (src / "parts" / "more.par").write_text("param unused = 3\n")
    (tmp_path / "x.csv").write_text("1,2\n")
    (src / "rows.csv").write_text("1,2\n")
    (src / "own.csv").write_text("1,2\n")
    return src


def write(command: str, file: Path | str, output: Path | str, *more: str) -> Result:
    return CliRunner().invoke(cli, [command, str(file), "--job", "fit", "-o", str(output), *more])


def everything(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


INPUTS = {
    "main.par": "the file to read",
    "parts/sgd.par": "used by",
    "parts/more.par": "used by",
    "../x.csv": "data that",
    "rows.csv": "data that",
}


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link", "link to a link", "another spelling"])
@pytest.mark.parametrize("victim", INPUTS)
def test_no_input_is_written_over(project: Path, victim: str, how: str) -> None:
    target, link = project / victim, project / "link"
    if how == "symbolic link":
        link.symlink_to(target)
    elif how == "hard link":
        link.hardlink_to(target)
    elif how == "link to a link":
        (project / "first").symlink_to(target)
        link.symlink_to("first")
    before = everything(project.parent)
    output = {"itself": target, "another spelling": project / "parts" / ".." / victim}.get(how, link)
    for command in WRITERS:
        result = write(command, project / "main.par", output)
        assert result.exit_code == 2 and INPUTS[victim] in result.stderr, result.output
        assert f"`{output}` is " in result.stderr and "it would be lost" in result.stderr
        told = json.loads(write(command, project / "main.par", output, "--json").stdout)
        assert told["exit"] == 2 and "it would be lost" in told["diagnostics"][0]["message"]
    assert everything(project.parent) == before


def test_data_that_a_parameter_names_on_the_command_line_is_not_written_over(project: Path) -> None:
    text = (project / "main.par").read_text()
    (project / "main.par").write_text(text.replace('csv("../x.csv")', "csv(corpus)"))
    result = write("compile", project / "main.par", project / "own.csv", "-D", "corpus=own.csv")
    assert result.exit_code == 2 and (project / "own.csv").read_text() == "1,2\n"


@pytest.mark.parametrize("stage", ["ast", "graph", "program"])
def test_at_every_stage(project: Path, stage: str) -> None:
    for victim in INPUTS:
        result = write("compile", project / "main.par", project / victim, "--emit", stage)
        assert result.exit_code == 2, (victim, result.output)


def test_a_broken_input_is_not_written_over_either(project: Path) -> None:
    (project / "main.par").write_text("use “\n")
    assert write("compile", project / "main.par", project / "main.par").exit_code == 2
    (project / "main.par").write_text('use "parts/sgd.par"\nmodel {')
    assert write("compile", project / "main.par", project / "main.par").exit_code == 2


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input_is_an_input_too(tmp_path: Path, name: str) -> None:
    """Where it is a file, by whatever name; and a pipe is not taken for one."""
    file = tmp_path / "main.par"
    file.write_text(CLUSTERED)
    command = [sys.executable, "-m", "parc", "compile", name, "-o", str(file)]
    with file.open() as given:
        done = subprocess.run(command, stdin=given, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "it would be lost" in done.stderr and file.read_text() == CLUSTERED
    if name == "-":
        command[-1] = "/dev/stdout"
        done = subprocess.run(command, input=CLUSTERED, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and done.stdout.startswith("program")


def test_other_files_are_replaced(project: Path) -> None:
    for name, before in (("new.npu", None), ("old.npu", "old"), ("empty.par", "")):
        if before is not None:
            (project / name).write_text(before)
        assert write("compile", project / "main.par", project / name).exit_code == 0
        assert (project / name).read_text().startswith("program")


def test_the_standard_library_is_an_input(project: Path) -> None:
    import dsl

    file = Path(dsl.__path__[0]) / "std" / "devices.par"
    (project / "link").symlink_to(file)
    before = file.read_bytes()
    assert write("compile", project / "main.par", project / "link").exit_code == 2
    assert file.read_bytes() == before


def test_what_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "broken.par").write_text("what\n")
    for output, why in ((tmp_path / "none" / "x", "No such file or directory"), (tmp_path, "Is a directory")):
        result = write("trace", tmp_path / "broken.par", output)
        assert result.exit_code == 2 and result.stderr == f"Error: cannot write `{output}`: {why}\n"
    assert write("trace", tmp_path / "broken.par", "").exit_code == 2


# --- how they are written -------------------------------------------------------------------------------


def test_files_are_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    file.chmod(0o640)
    with pytest.raises(UnicodeEncodeError):
        write_file(str(file), "new \ud800")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["a"]
    write_file(str(file), "new\r\n")
    assert file.read_bytes() == b"new\r\n" and stat.S_IMODE(file.stat().st_mode) == 0o640
    long = tmp_path / ("x" * 255)
    write_file(str(long), iter(["a", "b"]))
    assert long.read_text() == "ab" and sorted(os.listdir(tmp_path)) == ["a", long.name]


def test_new_files_have_the_usual_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(str(tmp_path / "a"), "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    for link, to in (("link", "a"), ("nowhere", "b"), ("twice", "link")):
        (tmp_path / link).symlink_to(to)
        write_file(str(tmp_path / link), f"by {link}")
        assert (tmp_path / link).is_symlink() and (tmp_path / link).read_text() == f"by {link}"
    assert (tmp_path / "a").read_text() == "by twice" and (tmp_path / "b").read_text() == "by nowhere"
    (tmp_path / "circle").symlink_to("circle")
    assert "symbolic links" in write("compile", "examples/gpt.par", tmp_path / "circle").stderr
    assert (tmp_path / "circle").is_symlink()


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_file(str(tmp_path / "pipe"), ["a", "b"])
    reader.join()
    assert found == ["ab"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"])
def test_standard_output_by_its_names(tmp_path: Path, name: str) -> None:
    """Also where it is a file that is appended to."""
    file = tmp_path / "out"
    file.write_text("before\n")
    command = f"{sys.executable} -m parc compile examples/gpt.par -o {name} >> {file}"
    assert subprocess.run(["bash", "-c", command], cwd=ROOT).returncode == 0
    assert file.read_text().startswith("before\nprogram") and os.listdir(tmp_path) == ["out"]


def test_a_device_is_written_to() -> None:
    assert write("compile", "examples/gpt.par", "/dev/null").exit_code == 1  # it has no job `fit`
    assert CliRunner().invoke(cli, ["compile", "examples/gpt.par", "-o", "/dev/null"]).exit_code == 0
    if os.path.exists("/dev/full"):
        result = CliRunner().invoke(cli, ["compile", "examples/gpt.par", "-o", "/dev/full"])
        assert result.exit_code == 2 and "No space left on device" in result.stderr


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.replace

    def synced(number: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else f"file of {os.fstat(number).st_size}")
        sync(number)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("name"), rename(a, b)))
    write_file(str(tmp_path / "a"), ["x"] * 10_000)
    assert done == ["file of 10000", "name", "folder"]


@pytest.mark.parametrize("command", WRITERS)
def test_gz_is_gzip_of_the_same_text(project: Path, command: str) -> None:
    plain, packed = project / "x", project / "x.gz"
    assert write(command, project / "main.par", plain).exit_code == 0
    assert write(command, project / "main.par", packed).exit_code == 0
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes().replace(b"/x\n", b"/x.gz\n")
    again = packed.read_bytes()
    assert write(command, project / "main.par", packed).exit_code == 0 and packed.read_bytes() == again


# --- signals --------------------------------------------------------------------------------------------

SIGNALLED = """
import os, random, signal, sys, time
from parc.cli.writing import write_file

folder, name, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
number, draw, target = getattr(signal, name), random.Random(name), os.path.join(sys.argv[1], "target")
texts = ["old" * 1000, "new" * 1000]

def slowly(text):
    for i in range(0, len(text), 100):
        yield text[i : i + 100]
        time.sleep(1e-5)

write_file(target, texts[0])
for run in range(runs):
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])  # a KeyboardInterrupt in a hook of fork is lost
    pid = os.fork()
    if pid == 0:
        try:
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
                end = time.monotonic() + 5
                for i in range(1_000_000):
                    if time.monotonic() > end:
                        os._exit(99)
                    write_file(target, slowly(texts[i % 2]))
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        except KeyboardInterrupt:
            pass
        os._exit(130)
    time.sleep(draw.random() * 0.02)
    os.kill(pid, number)
    if draw.random() < 0.5:
        time.sleep(draw.random() * 1e-4)
        try:
            os.kill(pid, number)  # who is in a hurry sends it twice
        except ProcessLookupError:
            pass
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == (130 if name == "SIGINT" else -number), (run, status)
    assert os.listdir(folder) == ["target"], (run, os.listdir(folder))
    assert open(target).read() in texts, run
"""


ENDINGS = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGABRT", "SIGPROF"]
if hasattr(signal, "SIGRTMIN"):
    ENDINGS.append("SIGRTMIN")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGXCPU"])
def test_no_signal_leaves_a_temporary_file(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", SIGNALLED, str(tmp_path), name, "60"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ENDINGS)
def test_a_command_that_is_ended_while_it_writes(tmp_path: Path, name: str) -> None:
    """It ends as one expects of it, with what was there before, as it was."""
    code = (
        "import os, signal, sys\nfrom parc.report.trace import Trace\n"
        "def text(self):\n    yield 'x' * 100_000\n"
        f"    os.kill(os.getpid(), signal.{name})\n    yield 'y'\n"
        "Trace.text = text\nfrom parc.cli import main\nsys.argv[0] = 'parc'\nmain()\n"
    )
    target = tmp_path / "out.json"
    target.write_text("old")
    command = [sys.executable, "-c", code, "trace", "examples/gpt.par", "-D", "dp=2", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == (130 if name == "SIGINT" else -getattr(signal, name)), done.stderr
    assert "Traceback" not in done.stderr and os.listdir(tmp_path) == ["out.json"] and target.read_text() == "old"


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """`nohup parc … &`."""
    code = (
        "import os, signal, sys\nfrom parc.cli.writing import write_file\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "def text():\n    yield 'a'\n    os.kill(os.getpid(), signal.SIGHUP)\n    yield 'b'\n"
        "write_file(sys.argv[1], text())\nassert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True, cwd=ROOT)
    assert (tmp_path / "a").read_text() == "ab"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="of POSIX")
def test_signals_that_end_nothing_are_left_alone(tmp_path: Path) -> None:
    """All handlers are as before afterwards, and those of others are called meanwhile."""
    code = (
        "import os, signal, sys\nfrom parc.cli.writing import write_file\n"
        "seen = []\nsignal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))\n"
        "before = {n: signal.getsignal(n) for n in signal.valid_signals()}\n"
        "def text():\n    yield 'a'\n"
        "    for n in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT):\n"
        "        assert signal.getsignal(n) == before[n]\n        os.kill(os.getpid(), n)\n    yield 'b'\n"
        "write_file(sys.argv[1], text())\n"
        "assert {n: signal.getsignal(n) for n in signal.valid_signals()} == before\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True, cwd=ROOT)
    assert (tmp_path / "a").read_text() == "ab"


@pytest.mark.parametrize("options", [("output", "certificate"), ("certificate", "report"), ("report", "output")])
def test_two_outputs_are_two_files(options: tuple[str, str], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever names; a device takes both."""
    monkeypatch.chdir(project)
    (project / "link").symlink_to("one")
    one, two = (f"--{o}" for o in options)
    given = ["plan", "main.par", "--job", "fit", "--within", "0.05s"]
    for other in ("one", "./parts/../one", "link"):
        refused = CliRunner().invoke(cli, [*given, one, "one", two, other])
        assert refused.exit_code == 2 and "are one file" in refused.stderr and not (project / "one").exists()
    assert CliRunner().invoke(cli, [*given, one, os.devnull, two, os.devnull]).exit_code == 0


def test_a_profile_is_no_output(project: Path) -> None:
    given = ["run", str(project / "main.par"), "--job", "fit", "--engine", "torch"]
    refused = CliRunner().invoke(cli, [*given, "-o", "one.npz", "--profile", "one.npz"])
    assert refused.exit_code == 2 and "`--output` and `--profile` are one file" in refused.stderr, refused.stderr
