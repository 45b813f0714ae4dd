"""Evaluation always ends, with a job or coded errors, whatever the file."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.evaluate import check_file, evaluate
from compiler.graph import Graph
from compiler.model import Job
from dsl.codes import CODES
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source

HERE = Path(__file__).parent
TEXTS = [
    (HERE.parents[1] / "examples" / "gpt.par").read_text(),
    *(p.read_text() for p in (HERE / "errors").glob("*.par")),
]
TEXTS += [c.mended for c in CODES.values() if c.code[:3] in ("E02", "E03", "E04")]
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\d+(?:\.\d+)?|->|\.\.\.?|[^\sA-Za-z0-9_]")
EXTRA = (
    "0",
    "1",
    "-1",
    "2 ** 200",
    "2 ** 62",
    "1e308",
    "0.0",
    "true",
    '"text"',
    "3 GB/s",
    "[1, [2]]",
    "b",
    "x",
    "over b",
    "b -> c",
)


def check(text: str) -> tuple[Diagnostic, ...]:
    try:
        return check_file(Source("main.par", text))
    except ParcError as error:
        return error.diagnostics


@settings(max_examples=120)
@given(st.data())
def test_mutated_files_give_coded_errors(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 3))):
        words = list(WORD.finditer(text))
        at = data.draw(st.sampled_from(words))
        other = data.draw(st.one_of(st.sampled_from(words).map(lambda m: m[0]), st.sampled_from(EXTRA), st.just("")))
        text = text[: at.start()] + other + text[at.end() :]
    for d in check(text):
        assert d.code in CODES
        assert d.span is None or d.span.source
        assert d.message == d.message.strip()


@given(st.sampled_from([c for c in CODES.values() if c.code[:3] in ("E01", "E02", "E03")]))
def test_findings_do_not_depend_on_what_was_checked_before(code: object) -> None:
    text = code.failing  # type: ignore[attr-defined]
    assert check(text) == check(text)


HOSTILE = {
    "sum of many": "param p = " + " + ".join(["1"] * 90) + "\n",
    "towers": "param a = 2 ** 2 ** 2 ** 2 ** 2 ** 2\n",
    "products": "".join(f"param p{i} = p{i - 1} * p{i - 1}\n" for i in range(1, 60)) + "param p0 = 10\n",
    "shrinking": "param a = 1e-300 * 1e-300 / 1e-300\nparam b = a ** -1\nparam c = 0.0 ** -1.0\n",
    "many parameters": "".join(f"param p{i} = p{i + 1}\n" for i in range(200)) + "param p200 = 1\n",
    "long cycle": "".join(f"param p{i} = p{(i + 1) % 60}\n" for i in range(60)),
    "ranges": "param p = 5 in 2 ** 300..3\nparam q = 5 in 1..true\nparam r = 1 in {1 GB, 2}\n",
    "calls": "fn f0(x) {\n  return x\n}\n"
    + "".join(f"fn f{i}(x) {{\n  return f{i - 1}(f{i - 1}(f{i - 1}(x)))\n}}\n" for i in range(1, 30))
    + "check f29(1) == 1\n",
    "mutual": "fn a(x) {\n  return b(x)\n}\nfn b(x) {\n  return a(x)\n}\ncheck a(1) == 1\n",
    "tactics": "tactic t0(a) {\n  split b on a\n}\n"
    + "".join(f"tactic t{i}(a) {{\n  t{i - 1}(a)\n  t{i - 1}(a)\n}}\n" for i in range(1, 40))
    + "strategy s {\n  mesh (a = 2)\n  t39(a)\n}\n",
    "deep tactics": "tactic t0(a) {\n  split b on a\n}\n"
    + "".join(f"tactic t{i}(a) {{\n  t{i - 1}(a)\n}}\n" for i in range(1, 200))
    + "strategy s {\n  mesh (a = 2)\n  t199(a)\n}\n",
    "meshes": "strategy s {\n  mesh (" + ", ".join(f"a{i} = 10 ** 9" for i in range(300)) + ")\n}\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_end_soon(name: str) -> None:
    start = time.process_time()
    assert all(d.code in CODES for d in check(HOSTILE[name]))
    assert time.process_time() - start < 5


def model(body: str) -> str:
    lines = "".join(f"  {line}\n" for line in body.splitlines())
    return (
        "use std.optimizers (sgd)\nfn same(x) {\n  return x\n}\nmodel m() {\n  dim b = 4\n  input x : f32[b]\n"
        f"{lines}}}\njob fit {{\n  train m()\n  optimizer sgd(lr = 0.1)\n}}\n"
    )


REPEATS = "".join(f"{'  ' * i}repeat 1000 as l{i} {{\n" for i in range(40))
BODIES = {
    "huge dims": "".join(f"dim d{i} = 2 ** 40\n" for i in range(9))
    + "weight w[d0, d1]\nloss sum(w)\ny = iota(d1) + iota(d2)\nz = pad(x, b, 2 ** 50, 0)\n",
    "huge repeats": "y = x\nrepeat 10 ** 12 as block {\n  weight w[b]\n  y = y * w\n}\nloss sum(y)",
    "nested repeats": "y = x\n" + REPEATS + "weight w[b]\ny = y * w\n" + "}\n" * 40 + "loss sum(y)",
    "merges": "weight w[b]\ny = x * w\n"
    + "".join(f"z{i} = rename(y, b -> b{i})\n" for i in range(40))
    + "t = "
    + " * ".join(f"z{i}" for i in range(40))
    + "\nloss sum(t)",
    "same calls": "y = " + "same(" * 55 + "x" + ")" * 55 + "\nloss sum(y)",
    "all wrong": "\n".join(f"y{i} = missing{i}" for i in range(500)),
    "wide call": "y = same(" + ", ".join(["x"] * 500) + ")\nloss sum(x)",
    "if chain": "if false {\n  y = x\n}" + " else if false {\n  y = x\n}" * 50 + "\nloss sum(x)",
}


@pytest.mark.parametrize("name", BODIES)
def test_hostile_models_end_soon(name: str) -> None:
    start = time.process_time()
    assert all(d.code in CODES for d in check(model(BODIES[name])))
    assert time.process_time() - start < 5


def test_evaluation_is_deterministic() -> None:
    def show(job: Job) -> str:
        def graph(g: Graph) -> str:
            return "\n".join(f"{n.op} {[v.name for v in n.inputs]} {[str(v) for v in n.outputs]}" for n in g)

        return "\n".join([repr(job.strategy), graph(job.model.graph), *(graph(u.graph) for u in job.updates)])

    texts = {re.sub(r"0x[0-9a-f]+", "", show(evaluate(Source("main.par", TEXTS[0])))) for _ in range(2)}
    assert len(texts) == 1


def test_the_size_of_the_graph_does_not_depend_on_the_number_of_layers() -> None:
    sizes = {len(evaluate(Source("main.par", TEXTS[0]), {"layers": n}).model.graph.nodes) for n in ("1", "10", "1000")}
    assert len(sizes) == 1
