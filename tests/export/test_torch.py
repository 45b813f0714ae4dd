"""Exported PyTorch files compute what the emulator does: on one device, and in processes that send messages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import parc
from compiler.driver import joined
from compiler.ops.comm import Comm, Relayout
from compiler.ops.registry import COMM, COMPUTE
from compiler.program import Program
from compiler.text import parse_program, show
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.exporting.torch.file import export_torch
from parc.exporting.torch.writer import EMIT
from runtime.data.synthetic import synthetic
from runtime.stacked import Emulator
from tests.entries import test_infer as inference
from tests.export.exported import BACKEND, Ran, alone, judge, together
from tests.export.processes import PROCESSES
from tests.matrix.cells import cells
from tests.order import files as order
from tests.place import test_uneven as uneven
from tests.some import one_in
from tests.stages import test_rows as rows
from tests.stages import test_ways as two_ways
from tests.states import models as states

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "programs"


def example(name: str, double: bool = False, **params: str) -> Program:
    return parc.compile(str(ROOT / "examples" / f"{name}.par"), params=params, double=double).program


def golden(name: str) -> Program:
    return parse_program((GOLDEN / f"{name}.npu").read_text(encoding="utf-8"))


# --- the text: these need no PyTorch ------------------------------------------------------------------------------


def test_every_op_has_an_emitter() -> None:
    assert {op for op in (*COMPUTE, *COMM) if op is not Relayout} - set(EMIT) == set()
    assert not any(issubclass(op, Comm) and not op.message and op not in EMIT for op in COMM if op is not Relayout)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.npu")), ids=lambda f: f.stem)
def test_a_file_is_short_and_is_python(file: Path) -> None:
    """At most twice the program's lines, the library's not counted; functions have the program's names."""
    program = golden(file.stem)
    text = export_torch(program)
    compile(text, file.stem, "exec")
    functions = text[text.index("\nTRAINED") if len(program.classes) == 1 else text.index("\nclass stage") :]
    assert functions.count("\n") <= 2 * show(program).count("\n")
    for f in program.classes[0].functions:
        assert re.search(rf"^ *def {f.phase}{f'_{f.chunk}' if f.chunk else ''}\(", text, re.MULTILINE)
    assert "parc" not in re.sub(r'^""".*?"""', "", text, count=1, flags=re.DOTALL)


def test_regions_are_calls_where_pytorch_derives() -> None:
    text = export_torch(example("gpt"))
    calls = {"layer_norm": 3, "scaled_dot_product_attention": 1, "cross_entropy": 1, "gelu": 1}
    assert {name: text.count(f"functional.{name}(") for name in calls} == calls
    assert "is_causal=True" in text and "torch.autograd.grad" in text and ".exp(" not in text
    llama = export_torch(example("llama"))
    assert "enable_gqa=True" in llama and llama.count("functional.rms_norm(") == 3 and "functional.silu(" in llama


def functions(text: str) -> str:
    """The text of a file without its library."""
    return text[text.index("BUFFERS = {") :]


@pytest.mark.parametrize("params", [{"dp": "2", "tp": "2"}, {"pp": "2", "zero": "1", "microbatches": "4"}], ids=str)
def test_regions_are_calls_where_the_program_derives(params: dict[str, str]) -> None:
    """In both passes, and nothing is computed beside them; the loss is one where the vocabulary is whole."""
    text = functions(export_torch(example("gpt", layers="4", **params)))
    loss = ["torch.log(", "cross_entropies"] if "tp" in params else ["cross_entropies", "torch.log("]
    calls = [*("torch.native_layer_norm", "layer_norm_backward", "attention", "attention_backward"), loss[0].strip("(")]
    assert {name for name in calls if not re.search(rf"= {re.escape(name)}\(", text)} == set()
    assert not any(f"{fn}(" in text for fn in ("rsqrt", "erf", "tril", loss[1].strip("(")))
    assert ("torch.exp(" in text) == ("tp" in params)
    assert text.count("functional.gelu(") == text.count("gelu_backward(") > 0


def test_what_is_no_region_is_no_call() -> None:
    """Without the marks nothing is searched for."""
    for params in ({}, {"dp": "2", "tp": "2"}):
        marked = show(example("gpt", **params))
        bare = parse_program("\n".join(line for line in marked.splitlines() if not line.lstrip().startswith("region")))
        assert not re.search("layer_norm(_backward)?\\(", export_torch(bare))


BEHIND = """\
program back
mesh (pp=2 place)
stages 2
input x: f32[b=4]

stage 0: devices 0 {
  loss loss: f32[]
  fn F {
    %x: f32[b=4] = input x
    send %x as there to 1
    %back: f32[b=4] = recv back from 1
    %loss: f32[] = reduce %back sum over (b)
    accumulate %loss into loss
  }
  schedule {
    F[0]
  }
}

stage 1: devices 1 {
  fn F {
    %x: f32[b=4] = recv there from -1
    %twice: f32[b=4] = mul %x, 2.0
    send %twice as back to -1
  }
  schedule {
    F[0]
  }
}
"""


def test_a_receive_behind_a_send_that_it_needs_is_refused() -> None:
    """Functions receive, run, then send: such a file would wait for ever."""
    with pytest.raises(ParcError) as refused:
        parc.export(Source("back.npu", BEHIND))
    assert [d.code for d in refused.value.diagnostics] == ["E0642"]


# --- the computation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt", "llama", "resnet", "lora", "mamba", "recsys"])
def test_an_example_on_one_device(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    judge(alone(example(name, double=True), tmp_path / name))


@pytest.mark.parametrize("name", ["gpt", "lora"])
def test_an_example_in_its_own_precision(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    ran = alone(example(name), tmp_path / f"{name}_own")
    assert ("torch.bfloat16" in ran.text) == (name == "lora")
    judge(ran)


@pytest.mark.parametrize("name", ["alone", "many_alone"])
def test_states_on_one_device(name: str, tmp_path: Path) -> None:
    """Caches that loops renew by slice, states that change places, positions that are known at run time."""
    pytest.importorskip("torch")
    judge(alone(states.compiled(name).program, tmp_path / name))


def test_microbatches_on_one_device(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    judge(alone(example("gpt", double=True, microbatches="4"), tmp_path / "micro"))


def test_functions_compile_as_one_graph(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    ran = alone(example("gpt", double=True, layers="1"), tmp_path / "compiled", BACKEND)
    assert "fullgraph=True" in ran.text
    judge(ran)


DISTRIBUTED = {
    "data_parallel": {"dp": "4"},
    "tensor_parallel": {"tp": "4"},
    "zero_1": {"dp": "4", "zero": "1"},
    "zero_3": {"dp": "4", "zero": "3"},
    "pipeline": {"pp": "2", "dp": "2", "microbatches": "4"},
    "context": {"cp": "2", "tp": "2"},
    "composed": {"pp": "2", "tp": "2", "zero": "1", "microbatches": "2"},
}
"""The example `gpt` on four devices."""

PROGRAMS = ["experts", "zero_bubble", "example_pangu_200b", "example_resnet", "example_mamba", "counted"]
"""Others that have messages of their own: all-to-alls, borders, shifts, W, statistics, 16 bits."""


STATES = ["many_columns", "interleaved"]

CELLS = [
    *("batch_norm-microbatches", "batch_norm-channels+microbatches", "batch_norm-gpipe"),  # statistics per micro-batch
    *("towers-two_passes", "towers-dp+two_passes"),
    *("gpt-as_they_come+microbatches", "resnet-rounds", "towers-places"),
    *("translation-visited_in_parts", "translation-dp+visited"),  # places that are visited again
    *(
        "translation-beside",
        "translation-loops_interleaved",
        "translation-encoder_by_each",
    ),  # computed once, or by each
]
"""Of the matrix."""

ROWS = {
    "rounds": rows.text("one", rows.row("one", "interleaved"), 2),  # 3 micro-batches: rounds that are not of 2
    "ends": rows.text("one", rows.row("one", "zero_bubble", "[0, 6]"), 3),
    "loops": rows.text("codec", rows.row("codec", "one_f_one_b"), 3),
}

_NESTED = "split b, v on na pad\n  split b, v on nb pad\n  shard optimizer, gradients, weights on nb pad\n  "
UNEVEN = {
    "pieces_of_pieces": uneven.NET.replace("AXES", "na = 2, nb = 2").replace(
        "RULES", f"{_NESTED}microbatches 3 over b pad"
    ),
    "borders": uneven.image(7, "sp = 2, ty = 2", "split y, o on sp pad\n  split y, o on ty pad", pad=5).text,
}


_ZIGZAG = "split s on cp zigzag for activations"
ORDERS = {
    "zigzag": order.file(_ZIGZAG, "cp = 4", "x = x + shift(x, s, by = 1) * cast(iota(s), compute)"),
    "zigzag_ring": order.file(f"{_ZIGZAG}\nimplement block.attention by ring_attention(cp)", "cp = 4"),
    "two_ways": two_ways.text(two_ways.BOTH),  # the loss is what both ways add up
}


MAKERS: dict[str, Callable[[], Program]] = {
    **{name: partial(example, "gpt", double=True, **params) for name, params in DISTRIBUTED.items()},
    **{name: partial(golden, name) for name in PROGRAMS},
    **{name: lambda name=name: states.compiled(name).program for name in STATES},  # type: ignore[misc]
    **{
        name: lambda text=text: parc.compile(Source("main.par", text), double=True).program  # type: ignore[misc]
        for name, text in (ROWS | UNEVEN | ORDERS).items()
    },
    **{str(c): lambda c=c: c.compile().program for n in (1, 2) for c in cells(n) if str(c) in CELLS},  # type: ignore[misc]
    "grouped": partial(example, "llama", double=True, dp="2", tp="2"),
    "compiled": partial(example, "gpt", double=True, **DISTRIBUTED["tensor_parallel"]),
}
ALIKE = [
    *("tensor_parallel", "zero_1", "many_columns", "ends", "zigzag"),
    *("batch_norm-channels+microbatches", "towers-dp+two_passes", "resnet-rounds", "translation-dp+visited"),
    *("translation-loops_interleaved", "translation-encoder_by_each"),
    "compiled",  # on one device by default
]
"""What others have, too: with `-m nightly`."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    pytest.importorskip("torch")
    programs = {name: made() for name, made in MAKERS.items() if name not in ALIKE}
    return together(programs, tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ALIKE])
def test_in_processes(name: str, ran: dict[str, Ran]) -> None:
    judge(ran[name])


@pytest.mark.nightly
def test_others_in_processes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for ran in together({name: MAKERS[name]() for name in ALIKE}, tmp_path, compiled=("compiled",)).values():
        judge(ran)


def test_the_function_is_no_module() -> None:
    """`parc.export` may be called again: no folder has its name."""
    file = str(ROOT / "examples" / "gpt.par")
    assert parc.export(file) == parc.export(file)


def test_who_ends_first_waits_for_who_needs_its_messages(tmp_path: Path) -> None:
    """The teacher's devices receive nothing, and have done their steps before the student's."""
    pytest.importorskip("torch")
    program = parc.compile(str(ROOT / "examples" / "distill.par"), strategy="apart").program
    file = tmp_path / "train.py"
    file.write_text(export_torch(program), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    done = subprocess.run([*command, str(file), "--steps", "3"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["step 1", "step 2", "step 3"]


def command(file: Path, processes: int, *options: str, torchrun: bool = False) -> list[str]:
    """What it prints. torchrun: started by it, or by itself, and not in processes that wait for tasks."""
    if not torchrun:
        out, err = PROCESSES.run(processes, [str(file), *options])
        assert "Warning" not in "".join(err), err
        return [line for text in out for line in text.splitlines()]
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    line = [sys.executable, *run, str(file), *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout.splitlines()


SIZES = {"layers": "1", "hidden": "16", "heads": "2", "seq": "8", "batch": "8"}
ENTRIES = {
    "alone": {},
    "composed": {"dp": "2", "tp": "2", "zero": "1"},
    "piped": {"pp": "2", "dp": "2", "layers": "2", "microbatches": "4"},
}


@pytest.mark.parametrize("name", one_in(2, ENTRIES))
def test_entries_in_one_file(name: str, tmp_path: Path) -> None:
    """Trains on parc's own batches with the losses of `parc run`, then evaluates with the weights as they are then."""
    torch = pytest.importorskip("torch")
    file, params = str(ROOT / "examples" / "gpt.par"), SIZES | ENTRIES[name]
    (tmp_path / "train.py").write_text(parc.export(file, params=params, entries=("train_step", "evaluate")))
    data = [{k: torch.from_numpy(x) for k, x in b.items()} for b in parc.batches(file, 3, params=params)]
    torch.save(data, tmp_path / "data.pt")
    program = parc.compile(file, params=params).program
    alone = parc.compile(file, params=params, entry="evaluate").program
    emulator = Emulator(joined([program, alone]))
    losses = [float(emulator.step(b).loss) for b in parc.batches(file, 3, params=params)]
    after = [float(emulator.call("evaluate", b).loss) for b in parc.batches(file, 2, params=params)]
    given = ["--steps", "3", "--evaluate", "2", "--data", str(tmp_path / "data.pt")]
    told = command(tmp_path / "train.py", program.devices, *given, torchrun=name == "piped")
    assert [line.partition(":")[0] for line in told] == [*(f"step {n}" for n in (1, 2, 3)), "evaluate 1", "evaluate 2"]
    found = [float(re.search(r"loss ([-\d.e+]+)", line)[1]) for line in told]  # type: ignore[index]
    assert found == pytest.approx([*losses, *after], rel=1e-4)
    assert losses == pytest.approx(parc.run(file, 3, params=params).losses)


def test_an_entry_that_trains_may_stand_behind_another(tmp_path: Path) -> None:
    """Evaluates with the weights as they begin, then trains with the losses of `parc run`."""
    torch = pytest.importorskip("torch")
    file = str(ROOT / "examples" / "gpt.par")
    (tmp_path / "train.py").write_text(parc.export(file, params=SIZES, entries=("evaluate", "train_step")))
    data = [{k: torch.from_numpy(x) for k, x in b.items()} for b in parc.batches(file, 2, params=SIZES)]
    torch.save(data, tmp_path / "data.pt")
    want = parc.run(file, 2, params=SIZES).losses
    told = command(tmp_path / "train.py", 1, "--steps", "1", "--train_step", "2", "--data", str(tmp_path / "data.pt"))
    found = [float(re.search(r"loss ([-\d.e+]+)", line)[1]) for line in told]  # type: ignore[index]
    assert found == pytest.approx([want[0], *want], rel=1e-4)


@pytest.mark.parametrize("name", ["heads", "pipeline"])
def test_entries_share_states(name: str, tmp_path: Path) -> None:
    """What an evaluation renews, the next step goes on from."""
    pytest.importorskip("torch")
    step, alone = states.compiled(name), states.compiled(name, entry="evaluate")
    both = joined([step.program, alone.program])
    ran = together({name: both}, tmp_path, between="evaluate")[name]
    emulator = Emulator(both)
    for n, told in enumerate(ran.told):
        batch = synthetic(both.inputs, both.seed, n)
        assert told["loss"] == pytest.approx(float(emulator.step(batch).loss), rel=1e-6)
        assert told["evaluate"] == pytest.approx(float(emulator.call("evaluate", batch).loss), rel=1e-6)
    for key, want in {**emulator.weights(), **emulator.states()}.items():
        assert ran.arrays[key].double().numpy() == pytest.approx(want, rel=1e-5, abs=1e-7), key


def test_a_lowered_program_is_exported_with_all_its_entries() -> None:
    """Unless one is chosen; one that it has not is an error."""
    text = parc.emit(str(ROOT / "examples" / "gpt.par"), "program", entries=("train_step", "evaluate"))
    source = Source("both.npu", text)
    assert "class entry_evaluate" in parc.export(source)
    assert "class entry_evaluate" not in parc.export(source, entries=("train_step",))
    only = parc.export(source, entries=("evaluate",))
    assert "def F(" in only and "def B(" not in only and "ENTRIES" not in only
    with pytest.raises(ParcError):
        parc.export(Source("one.npu", parc.emit(str(ROOT / "examples" / "gpt.par"))), entries=("evaluate",))


@pytest.mark.parametrize("strategy", one_in(2, ["serial", "uneven", "all", "interleaved"]))
def test_what_a_model_infers_is_written(strategy: str, tmp_path: Path) -> None:
    """Whole tensors for each batch, of whichever devices, stages and micro-batches they come."""
    torch = pytest.importorskip("torch")
    given = inference.source(strategy)
    program = parc.compile(given).program
    (tmp_path / "infer.py").write_text(parc.export(given))
    made = [synthetic(program.inputs, program.seed, step) for step in range(2)]
    torch.save([{k: torch.from_numpy(x.copy()) for k, x in b.items()} for b in made], tmp_path / "data.pt")
    paths = "--data", str(tmp_path / "data.pt"), "--outputs", str(tmp_path / "out.pt")
    command(tmp_path / "infer.py", program.devices, "--steps", "2", *paths, torchrun=strategy == "serial")
    found, emulator = torch.load(tmp_path / "out.pt"), Emulator(program)
    assert len(found) == 2
    for batch, outputs in zip(made, found):
        want = emulator.step(batch).outputs
        assert outputs.keys() == want.keys()
        for name, x in want.items():
            assert outputs[name].numpy() == pytest.approx(x, rel=1e-4, abs=1e-5), name
