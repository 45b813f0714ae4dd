"""Places in any order, stages without gradients, scopes around pipelines: drawn, proved equal to the serial program.

What is drawn here is small and tangled: values that several scopes read, losses and metrics of values in the middle,
equal computations in the backward pass of several stages, weights behind `stop_gradient`, weights read in many places.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

import parc
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.model import EVALUATE
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove_evaluation
from tests.memory.measured import exact

SHARED_SEED = """\
use std.optimizers

fn part(x[b,d]) {
  weight w[d] ~ normal(0.5)
  return x * w
}

model m {
  dim b = 4, d = 2
  input x : f32[b,d]
  y = part(x) as one
  z = part(y) as two
  loss mean(z) + mean(y)
}

strategy fwd for m {
  mesh (t = 2)
  place one on t[0]
  place two on t[1]
}

strategy rev for m {
  mesh (t = 2)
  place one on t[1]
  place two on t[0]
}

job fit {
  train m using fwd
  optimizer sgd(lr = 0.01)
}
"""

FROZEN_LAST = """\
use std.optimizers

model m {
  dim b = 4, d = 2
  input x : f32[b,d]
  weight frozen[d]
  y = x
  repeat 2 as block {
    weight w[d] ~ normal(0.3)
    y = y * w
  }
  y = y * stop_gradient(frozen)
  loss mean(y * y)
}

strategy pipe for m {
  mesh (pp = 2)
  pipeline block on pp, schedule gpipe(microbatches = 2)
}

job fit {
  train m using pipe
  optimizer sgd(lr = 0.01)
}
"""

AROUND = """\
use std.optimizers

fn trunk(x[..., d], n) {
  repeat n as block {
    weight w[d] ~ normal(0.3)
    x = tanh(x * w)
  }
  return x
}

model m(n = 4) {
  dim b = 8, d = 6
  input x : f32[b,d]
  y = trunk(x, n) as body
  loss mean(y * y)
}

strategy pipe for m {
  mesh (pp = 2)
  pipeline block on pp, schedule gpipe(microbatches = 2)
  recompute body
}

job fit {
  train m using pipe
  optimizer sgd(lr = 0.01)
}
"""

METRIC = """\
use std.optimizers

fn part(x[b,d]) {
  return tanh(x)
}

model m {
  dim b = 4, d = 2
  input x : f32[b,d]
  weight first[d], table[d] ~ normal(0.5)
  y = x * first
  z = part(y) as one
  logits = z * table
  metric q = mean(y)
  loss mean(logits * logits)
}

strategy p1 for m {
  mesh (t = 2)
  place one on t[1]
}

job fit {
  train m using p1
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize("executor", ["stacked", "private"])
@pytest.mark.parametrize(
    ("text", "strategy"),
    [(SHARED_SEED, "fwd"), (SHARED_SEED, "rev"), (FROZEN_LAST, "pipe"), (AROUND, "pipe"), (METRIC, "p1")],
    ids=["seed", "seed_reversed", "frozen_last", "around", "metric"],
)
def test_known(text: str, strategy: str, executor: parc.api.Executor) -> None:
    source = Source("known.par", text)
    parc.check(source, strategy=strategy)
    assert parc.verify(source, double=True, strategy=strategy, executor=executor).ok


def test_weights_are_where_they_are_read() -> None:
    """A metric is where its weights are read anyway: no stage gets them for it alone."""
    classes = parc.compile(Source("known.par", METRIC)).program.classes
    assert [[s.name for s in c.states if s.role in ("weight", "metric")] for c in classes] == [
        [],
        ["first", "table", "q"],
    ]


@pytest.mark.parametrize("pp", [1, 2, 4])
def test_each_stage_runs_its_own_iterations_again(pp: int) -> None:
    """The scope is around the loop that is cut: what it carries is saved, what it makes inside is not."""
    source = Source("known.par", AROUND.replace("pp = 2", f"pp = {pp}"))
    for cls in parc.compile(source).program.classes:
        saved = {s.logical for s in cls.states if s.role == "saved"}
        assert saved - {"body.x"} == {"body.block.x.saved"}  # the result is saved where the loss reads it


@pytest.mark.parametrize("executor", ["stacked", "private"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_values_come_back_to_a_place(count: int, executor: parc.api.Executor) -> None:
    """Once more for each micro-batch, in the order of 1F1B."""
    text = SHARED_SEED.replace("z = part(y) as two", "z = part(part(y) as two) as three")
    text = text.replace("place two on t[1]\n", "place two on t[1]\n  place three on t[0]\n", 1)
    source = Source("circle.par", text.replace("mesh (t = 2)", f"mesh (t = 2)\n  microbatches {count} over b", 1))
    program = parc.compile(source).program
    assert program.homes.groups == (0, 1, 0)
    assert parc.verify(source, double=True, executor=executor).ok and exact(program)


# --- drawn ---------------------------------------------------------------------------------------------------------


@dataclass
class Tangle:
    """A model under construction: names of its values by number of dims, scopes, weights."""

    rng: Random
    values: list[str] = field(default_factory=lambda: ["x", "o"])
    lines: list[str] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    weights: int = 0
    body: str = ""  # what comes out of the loop that is cut

    def any(self) -> str:
        """A value, rather a late one."""
        return self.rng.choice(self.values[-3:] if self.rng.random() < 0.6 else self.values)

    def weight(self) -> str:
        self.weights += 1
        self.lines.append(f"weight w{self.weights}[d] ~ normal(0.6)")
        return f"w{self.weights}"

    def keep(self, text: str) -> str:
        name = f"v{len(self.values)}"
        self.lines.append(f"{name} = {text}")
        self.values.append(name)
        return name

    def step(self) -> None:
        """One more value."""
        r, a, b = self.rng, self.any(), self.any()
        kind = r.choice(["part", "part", "part", "plain", "join", "join", "map", "weight", "still", "loop"])
        if kind in ("part", "plain"):
            label = f"s{len(self.scopes)}"
            self.scopes.append(label)
            self.keep(f"{'part' if kind == 'part' else 'soft'}({a}) as {label}")
        elif kind == "join":
            self.keep(f"{a} * {b}" if r.random() < 0.5 else f"{a} + {b}")
        elif kind == "map":
            self.keep(r.choice([f"tanh({a})", f"0.5 * {a}", f"{a} * tanh({a})"]))
        elif kind == "weight":
            known = r.randint(1, self.weights) if self.weights and r.random() < 0.4 else None
            self.keep(f"{a} * {f'w{known}' if known else self.weight()}")
        elif kind == "still":
            self.keep(f"{a} * stop_gradient({self.weight()})" if r.random() < 0.7 else f"stop_gradient({a}) * {b}")
        else:
            label, name = f"l{len(self.scopes)}", self.keep(a)
            self.scopes.append(label)
            still = r.random() < 0.3
            self.lines.append(
                f"repeat 2 as {label} {{\n    weight u[d] ~ normal(0.5)\n"
                f"    {name} = tanh({name} * {'stop_gradient(u)' if still else 'u'})\n  }}"
            )


MODEL = """\
use std.optimizers

fn part(x[b,d]) {
  weight w[d] ~ normal(0.7)
  return tanh(x * w)
}

fn soft(x[b,d]) {
  return 0.5 * x * tanh(x)
}

fn trunk(x[b,d], n) {
  repeat n as block {
    weight w[d] ~ normal(0.7)
    x = x + tanh(x * WEIGHT)
  }
  return x
}

model m {
  dim b = 8, d = 4
  input x, o : f32[b,d]
  LINES
}

strategy drawn for m {
  RULES
}

job fit {
  train m using drawn
  optimizer OPTIMIZER
  precision PRECISION
}
"""


def draw(seed: int, pipelined: bool, crowded: bool = False) -> Source:
    """A tangle of values, cut by a pipeline or spread over places. crowded: so many that values come back to them."""
    rng = Random(seed)
    t = Tangle(rng)
    for _ in range(rng.randint(0, 3)):
        t.step()
    if pipelined:
        t.body = t.keep(f"trunk({t.any()}, 4) as body")
    for _ in range(rng.randint(1, 5)):
        t.step()
    for _ in range(rng.randint(3, 5) if crowded else 0):
        t.scopes.append(f"s{len(t.scopes)}")
        t.keep(f"part({t.values[-1]} + {t.any()}) as {t.scopes[-1]}")
    for i in range(rng.choice([0, 0, 1, 2])):
        t.lines.append(f"metric q{i} = mean({rng.choice(t.values)})")
    text = " ".join(t.lines)
    ends = [v for v in t.values if f"{v} " not in text.replace(f"{v} = ", "") and f"{v})" not in text]  # nobody reads
    read = dict.fromkeys([*ends, t.body or t.values[-1], *rng.sample(t.values, rng.choice([0, 1, 2]))])
    t.lines.append("loss " + " + ".join(rng.choice([f"mean({v} * {v})", f"mean({v})"]) for v in read))
    places = rng.choice([2, 3])
    if pipelined:
        stages = rng.choice([2, 2, 4])
        rules = [f"mesh (pp = {stages}, dp = {rng.choice([1, 2])})"]
        schedule = rng.choice(["gpipe", "one_f_one_b", "interleaved", "zero_bubble"])
        chunks = f", chunks = {4 // stages}" if schedule == "interleaved" else ""
        rules.append(f"pipeline block on pp, schedule {schedule}(microbatches = {4 if stages > 2 else 2}{chunks})")
    else:
        rules = [f"mesh (at = {places}, dp = {rng.choice([1, 2])})"]
        rules += [
            f"place {s} on at[{rng.randrange(places)}]"
            for s in rng.sample(t.scopes, min(len(t.scopes), 8 if crowded else rng.choice([1, 2, 3, 5])))
        ]
        if rng.random() < 0.5:
            rules.append(f"microbatches {rng.choice([2, 4])} over b")
    if rng.random() < 0.5:
        rules += ["split b on dp"]
    if rng.random() < 0.4:
        scopes = ["", *t.scopes, *(["body"] * 3 if pipelined else [])]
        rules.append(f"recompute {rng.choice(scopes)}")
    text = MODEL.replace("LINES", "\n  ".join(t.lines)).replace("RULES", "\n  ".join(rules))
    text = text.replace("OPTIMIZER", rng.choice(["sgd(lr = 0.1)", "adam(lr = 1e-3, eps = 1e-6, clip = 1.0)"]))
    text = text.replace("WEIGHT", "stop_gradient(w)" if rng.random() < 0.15 else "w")
    precision = rng.choice(["f32", "f32", "f32, loss_scale dynamic"])
    return Source("drawn.par", text.replace("PRECISION", precision))


REFUSED = {"E0404", "E0410", "E0542"}
"""A rule about what nobody reads."""


def outcome(seed: int, pipelined: bool, crowded: bool = False) -> bool:
    """Whether the draw is proved; False if it is refused. Raises for anything else."""
    source = draw(seed, pipelined, crowded)
    try:
        parc.check(source, double=True)
        proof = parc.verify(source, double=True, steps=1, executor="private" if seed % 5 == 0 else "stacked")
    except ParcError as e:
        assert {d.code for d in e.diagnostics} <= REFUSED, (seed, source.text, e.diagnostics)
        return False
    assert proof.equal, (seed, source.text, proof.worst)  # some train nothing
    return True


@pytest.mark.parametrize("pipelined", [False, True], ids=["places", "pipeline"])
def test_tangles(pipelined: bool) -> None:
    assert sum(outcome(seed, pipelined) for seed in range(30)) >= 18


def test_places_that_values_come_back_to() -> None:
    """Text, memory and evaluation, too."""
    visited = [seed for seed in range(12) if _come_back(seed)]
    assert len(visited) > 5 and sum(outcome(seed, False, True) for seed in visited) == len(visited)


@pytest.mark.nightly
def test_many_places_that_values_come_back_to() -> None:
    visited = [seed for seed in range(1000, 1200) if _come_back(seed)]
    assert len(visited) > 80 and sum(outcome(seed, False, True) for seed in visited) == len(visited)


def _come_back(seed: int) -> bool:
    try:
        job = evaluate(draw(seed, False, True))
        program = compile_job(job).program
    except ParcError as e:
        assert {d.code for d in e.diagnostics} <= REFUSED, (seed, e.diagnostics)
        return False
    if program.homes.chunks == 1:
        return False
    assert verify(program) == () and parse_program(show(program)) == program and exact(program), seed
    alone = compile_job(job, EVALUATE)
    assert verify(alone.program) == () and prove_evaluation(alone.training, alone.program, 1).equal, seed
    return True


@pytest.mark.nightly
@pytest.mark.parametrize("pipelined", [False, True], ids=["places", "pipeline"])
def test_many_tangles(pipelined: bool) -> None:
    assert sum(outcome(seed, pipelined) for seed in range(1000, 3000)) >= 1300
