"""Which programs have a golden file, and when such a file may be replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate_file
from compiler.model import Precision
from compiler.program import Program
from compiler.text import show
from compiler.verify import verify
from dsl.source import Source
from parc.cli.writing import write_file
from runtime.prove import prove

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
EXAMPLES = HERE.parents[1] / "examples"
DOUBLE = Precision("f64", "f64")


@dataclass(frozen=True)
class Case:
    """`file` under its own strategy with `params`, or (axes, rules) put into its strategy."""

    name: str
    file: Path
    params: dict[str, str] = field(default_factory=dict)
    axes: str = ""
    rules: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The golden file."""
        return PROGRAMS / f"{self.name}.npu"

    def compile(self, precision: Precision | None = None) -> Compiled:
        """In the precision of the file, or another."""
        source: Source | Path = self.file
        if self.axes:
            text = self.file.read_text(encoding="utf-8")
            text = text.replace("AXES", self.axes).replace("RULES", "\n  ".join(self.rules))
            source = Source(str(self.file), text, str(self.file))
        return compile_job(evaluate_file(source, self.params, precision=precision).job)


def _technique(name: str, axes: str, *rules: str, experts: int = 0) -> Case:
    return Case(name, HERE / "transformer.par", {"experts": str(experts)}, axes, rules)


def _example(name: str, **params: int) -> Case:
    return Case(f"example_{name}", EXAMPLES / f"{name}.par", {k: str(v) for k, v in params.items()})


_PIPELINE = "pipeline block on pp, schedule {}(microbatches = 4, over = b)"

CASES: tuple[Case, ...] = (
    _technique("data_parallel", "dp = 4", "data_parallel(dp)"),
    _technique("zero_1", "dp = 4", "data_parallel(dp)", "optimizer_parallel(dp, 1)"),
    _technique("zero_2", "dp = 4", "data_parallel(dp)", "optimizer_parallel(dp, 2)"),
    _technique("zero_3", "dp = 4", "fsdp(dp)"),
    _technique("accumulation", "dp = 2", "data_parallel(dp)", "microbatches 4 over b"),
    _technique("tensor_parallel", "tp = 4", "tensor_parallel(tp)"),
    _technique("megatron", "tp = 4", "megatron(tp)"),
    _technique("megatron_recompute", "tp = 4", "megatron(tp)", "recompute block"),
    _technique("context_parallel", "cp = 4", "context_parallel(cp)"),
    _technique("ulysses", "cp = 4", "ulysses(cp)"),
    _technique(
        "ring",
        "cp = 4, tp = 2",
        "context_parallel(cp)",
        "tensor_parallel(tp)",
        "implement block.attention by ring_attention(cp)",
    ),
    _technique("vocab_parallel", "tp = 4", "vocab_parallel(tp)"),
    _technique("experts", "ep = 4", "moe(ep)", experts=4),
    _technique("one_f_one_b", "pp = 2", _PIPELINE.format("one_f_one_b")),
    _technique("zero_bubble", "pp = 2", _PIPELINE.format("zero_bubble")),
    _technique("offload", "dp = 2", "fsdp(dp)", "recompute block", "offload weights, activations to host"),
    Case("counted", HERE / "tuned.par", {}, "pp = 2, dp = 2", ("data_parallel(dp)", _PIPELINE.format("one_f_one_b"))),
    _example("gpt", layers=4, hidden=16, vocab=24, seq=8, batch=8, dp=2, tp=2, zero=1),
    _example("llama", layers=4, hidden=16, vocab=24, seq=8, batch=8, dp=2, cp=2, zero=3),
    _example("lora", layers=4, hidden=16, width=32, vocab=24, seq=8, batch=8, dp=2, tp=2, zero=3),
    _example("mamba", layers=4, hidden=16, vocab=24, seq=8, batch=8, dp=2, tp=2, zero=1),
    _example("pangu_200b", layers=4, hidden=16, heads=4, vocab=24, seq=8, batch=8, pp=1, dp=2, tp=2, microbatches=2),
    _example("resnet", batch=8, dp=2, sp=2),
    _example("recsys", users=24, items=30, groups=4, batch=16, dp=2),
    _example("streaming", layers=4, hidden=16, vocab=24, seq=4, memory=8, batch=8, dp=2, tp=2, microbatches=2),
    _example("towers", dp=2),
    _example("distill", layers=4, hidden=16, small_layers=2, small_hidden=8, heads=2, vocab=24, seq=8, dp=2, tp=2),
    _example("schedules", layers=4, hidden=16, vocab=24, seq=8, batch=8, m=4),
)


@cache
def compiled(name: str) -> Compiled:
    """The case's program, in the precision of its file."""
    return next(c for c in CASES if c.name == name).compile()


def update(path: Path, case: Case, program: Program) -> None:
    """Write the golden file of `case`, if `program` (what is compiled for it now) is proved; AssertionError if not.

    In float64 the whole step must agree; in the precision of the file, loss and gradients (an update may divide the
    rounding of a gradient by that gradient). Nothing is proved again for a text that stays.
    """
    text = show(program)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    found = verify(program)
    assert not found, f"{case.name} is not legal: {found[0]}"
    double = case.compile(DOUBLE)
    proof = prove(double.training, double.program)
    assert proof.ok, f"{case.name} is not equal to the serial program: {proof.worst}"
    own = prove(case.compile().training, program, steps=1)
    wrong = [r for r in own.rows if r.kind in ("loss", "gradient") and not r.ok]
    assert not wrong, f"{case.name} is not equal to the serial program: {wrong[0]}"
    write_file(str(path), text)
