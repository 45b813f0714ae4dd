"""Reads the texts of the stages before a program (`compiler.text.stages` prints them)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from compiler.graph import Graph, Node, Value
from compiler.layout import Layout
from compiler.memory.tiers import FIRST
from compiler.model import (
    TRAIN_STEP,
    DataInput,
    Finish,
    Job,
    Model,
    Precision,
    Round,
    State,
    Training,
    Weight,
    WeightUpdate,
)
from compiler.ops.base import Op
from compiler.ops.comm import Relayout
from compiler.origin import Origin, Phase, Role
from compiler.passes.place.place import Placed, PlacedRound
from compiler.passes.place.rules import Rules
from compiler.strategy import SERIAL
from compiler.text.attrs import OPS, quote
from compiler.text.bodies import BodyParser
from compiler.text.locations import Locations, Site
from compiler.text.records import FactParser
from compiler.text.spans import WORD, SpanParser, located
from compiler.text.stages import EVALUATED, FACTS, FUNCTION, PHASES, STAGES
from dsl.diagnostics import Diagnostics, plural
from dsl.source import NOWHERE, Span


def parse_stage(
    text: str, name: str = "text", folder: str = ".", locations: Locations | None = None
) -> Job | Training | Placed:
    """What the text of a stage describes. Raises ParcError with all errors found.

    folder: where the text lies, from which its data's folder counts; locations: are told where its graphs' nodes stand
    in the text (sites count the graphs in its order).
    """
    parser = _Parser(text, name)
    found = parser.stage(folder)
    if locations is not None:
        locations.spans.update(parser.where.spans)
    return found


def parse_graph(text: str, name: str = "text", sizes: Mapping[str, int] | None = None) -> Graph:
    """One graph by itself; sizes: of the axes of the mesh, if it is placed. Values that it does not define are let be:
    open graphs refer to another graph's. Raises ParcError."""
    parser = _Parser(text, name)
    parser.placed, parser.sizes = sizes is not None, sizes or {}
    parser.skip_lines()
    parser.called()
    role = parser.text("the graph's role")
    found = parser.graph(role)
    parser.found.raise_if_any()
    return found


class _Parser(FactParser, BodyParser, SpanParser):
    ops = {**OPS, Relayout.mnemonic: Relayout}

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text, name)
        self.placed = False
        self.role = ""
        self.values: dict[str, Value] = {}
        self.layouts: dict[str, Layout] = {}  # stated in the header
        self.spans: dict[str, Span] = {}
        self.graphs = 0  # so many are read

    # --- values ---

    def _var(self) -> Value:
        name = self.value_name()
        self.mark(":")
        type, layout = self.type()
        named = self.sees_word("in") and self.tokens[self.at + 1].kind in ("word", "string")  # else: between numbers
        memory = self.text("a memory") if named and self.take_word("in") else FIRST
        stated = next((p for p in Phase if self.take_word(p)), None)
        of = self.text() if self.take_word("of") else ""
        path = self.text() if self.take_word("at") else of or name
        origin = Origin(path, stated or PHASES.get(self.role, Phase.FORWARD), of)
        value = Value(name, type, self._stands(f"%{quote(name)}"), origin, memory=memory)
        return self._known(replace(value, layout=layout) if self.placed else value)

    def _stands(self, what: str, default: Span = NOWHERE) -> Span:
        if self.role == "evaluated" and EVALUATED + what in self.spans:
            what = EVALUATED + what
        return self.spans.get(what, default)

    def instruction(self, site: Site, depth: int) -> Node:
        node = super().instruction(site, depth)
        if not node.outputs:
            return node
        first = node.outputs[0]
        return replace(node, span=self._stands(f"=%{quote(first.name)}", first.span))

    def _known(self, value: Value) -> Value:
        """The same value where it stands in several graphs."""
        if not value.same(self.values.get(value.name, value)) or value.name not in self.values:
            self.values[value.name] = value
        return self.values[value.name]

    def _with_phase(self, values: Sequence[Value], op: Op | None = None) -> tuple[Value, ...]:
        return tuple(values)

    def declared(self) -> Value:
        """A value of the header: of the whole tensor; its layout is kept apart."""
        placed, self.placed = self.placed, False
        try:
            start = self.at
            value = self._var()
            if placed:
                self.at, self.placed, self.values = start, True, {}
                self.layouts[value.name] = self._var().layout
                self.values = {}
            return value
        finally:
            self.placed = placed

    # --- graphs ---

    def graph(self, role: str) -> Graph:
        """`forward gpt ( … ) { … yield … }`, behind its role."""
        self.role = role
        start = self.token
        name = self.text("the graph's name")
        self.where.spans.setdefault(Site(self.graphs), self.span(start))
        self.mark("(")
        inputs: list[Value] = []
        while not self.sees(")"):
            inputs.append(self._var())
            if not self.take(","):
                break
        self.mark(")")
        self.mark("{")
        self.end_line()
        self.scope = {v.name: v for v in inputs}
        nodes, regions = self.nodes(Site(self.graphs), 0)
        self.graphs += 1
        self.word("yield")
        outputs = self._operands()
        self.end_line()
        self.mark("}")
        self.end_line()
        self.skip_lines()
        self.role = ""
        return Graph(name, tuple(inputs), nodes, outputs, regions)

    def called(self) -> None:
        """The functions that the next graph calls."""
        while self.take_word(FUNCTION):
            start, outer, self.where = self.token, self.where, Locations()
            function = self.graph(FUNCTION)
            self.graphs -= 1  # sites count those that a step runs
            self.lines[function.name], self.where = self.where.spans, outer
            if function.name in self.functions:
                raise self.error("E0606", f"there are two functions `{function.name}`", start)
            self.functions[function.name] = function

    # --- the whole ---

    def stage(self, folder: str) -> Job | Training | Placed:
        self._tables()
        self.skip_lines()
        start = self.token
        stage = self.text("a stage")
        if stage not in STAGES:
            raise self.error("E0601", f"expected `program`, `{'`, `'.join(STAGES)}`, found {start}", start)
        facts: dict[str, Any] = {"name": self.text("the job's name"), "strategy": SERIAL, "precision": Precision()}
        facts["span"] = self.spans.get("job", NOWHERE)
        self.word("of")
        name = self.text("the model's name")
        self.end_line()
        entry = TRAIN_STEP
        if self.take_word("entry"):
            entry = self.text("an entry")
            self.end_line()
        while self.token.text in FACTS:
            word = self.next().text
            facts[word] = located(self.fact_of(FACTS[word]), word, self.spans)
            self.end_line()
        if "data" in facts:
            there = os.path.normpath(os.path.join(folder, facts["data"].folder))
            facts["data"] = replace(facts["data"], folder=there)
        results, scored = (facts.pop("metrics", ()), facts.pop("outputs", ())), facts.pop("scored", True)
        pieces = facts.pop("pieces", ())
        self.placed = stage == "placed"
        inputs, weights = [], []
        while self.take_word("input"):
            inputs.append(self._input_line())
        if self.placed:  # the first input's first dim is that of the micro-batches, if nothing is said
            model = Model("", tuple(inputs), (), Graph("", (), (), ()))
            self.sizes = Rules(Job(model=model, updates=(), **facts), Diagnostics()).sizes
        while self.take_word("weight"):
            weights.append(self._weight())
        states = self._states((Role.STATE,))
        step = []
        if self.take_word("step"):
            step.append(self.declared())
            self.end_line()
        model = Model(
            name, tuple(inputs), tuple(weights), Graph(name, (), (), ()), *results, states, scored, pieces=pieces
        )
        if stage == "graph":
            self.skip_lines()
            self.word("model")
            model = replace(model, graph=self.graph("model"))
            own: dict[str, Any] = {}
            while self.token.text in ("metrics", "outputs", "scored"):
                word = self.next().text
                own[word] = self.fact()
                self.end_line()
            results, scored = (own.get("metrics", ()), own.get("outputs", ())), own.get("scored", True) is not False
            evaluated = self._evaluated(model, results, scored) if self.take_word("evaluated") else None
            updates = tuple(self._optimizers())
            found: Job | Training | Placed = Job(model=model, updates=updates, evaluated=evaluated, **facts)
        else:
            given = (*(i.value for i in inputs), *(w.value for w in weights), *(s.value for s in states), *step)
            found = self._training(facts, replace(model, graph=Graph(name, given, (), ())), entry)
        if not self.sees("end"):
            self.give_up("the end of the text")
        self.found.raise_if_any()
        return found

    def _tables(self) -> None:
        """Reads what stands at the end of the text, and ends it there."""
        lines = (i for i, t in enumerate(self.tokens) if t.kind == "newline")
        first = next((i + 1 for i in lines if self.tokens[i + 1 : i + 2] and self._is_table(i + 1)), None)
        if first is None:
            return
        self.at = first
        self.spans = self.span_tables()
        if not self.sees("end"):
            self.give_up("the end of the text")
        self.tokens[first:] = self.tokens[-1:]
        self.at = 0

    def _is_table(self, at: int) -> bool:
        return self.tokens[at][:2] == ("word", WORD) and self.tokens[at + 1].kind == "string"

    def _evaluated(self, model: Model, results: tuple[tuple[str, ...], tuple[str, ...]], scored: bool) -> Model:
        """The same model where nothing is trained, with what it gives, data and weights of its own."""
        graph = self.graph("evaluated")
        own = {v.name: v for v in graph.inputs}
        inputs = tuple(replace(i, value=own[i.value.name]) for i in model.inputs if i.value.name in own)
        weights = tuple(replace(w, value=own[w.name]) for w in model.weights if w.name in own)
        states = tuple(replace(s, value=own[s.name]) for s in model.states if s.name in own)
        metrics, outputs = results
        found = replace(model, inputs=inputs, weights=weights, graph=graph, states=states)
        return replace(found, metrics=metrics, outputs=outputs, scored=scored)

    def _input_line(self) -> DataInput:
        value = self.declared() if not self.placed else self._unlaid()
        return DataInput(value, *self.bounds())

    def _unlaid(self) -> Value:
        placed, self.placed = self.placed, False
        value = self._var()
        self.placed = placed
        return value

    def _weight(self) -> Weight:
        value = self.declared()
        self.mark("=")
        init = self.initialiser()
        loops = self.fact_of(tuple[str, ...]) if self.take_word("loops") else ()
        frozen = self.take_word("frozen")
        self.end_line()
        return Weight(value, init, loops, not frozen)

    def _states(self, roles: Sequence[Role] = (Role.COUNTER, Role.OPTIMIZER)) -> tuple[State, ...]:
        found: list[State] = []
        while any(map(self.sees_word, roles)):
            role = Role(self.next().text)
            value = self.declared()
            self.mark("=")
            init = self.initialiser()
            within = self.range() if self.take_word("within") else None
            of = self.text() if self.take_word("of") else None
            loops = self.fact_of(tuple[str, ...]) if self.take_word("loops") else ()
            self.end_line()
            found.append(State(value, init, role, of, loops, within))
        return tuple(found)

    def _optimizers(self) -> Iterable[WeightUpdate]:
        self.skip_lines()
        found: dict[str, WeightUpdate] = {}
        while not self.sees("end"):
            states = self._states()
            self.word("of")
            weight = self.text("a weight")
            beside = self.fact_of(tuple[str, ...]) if self.take_word("beside") else ()
            if self.take_word("as"):
                start = self.token
                first = found.get(self.text("a weight"))
                if first is None or len(first.states) != len(states):
                    raise self.error("E0606", "no weight above with as many states has this name", start)
                graph = first.graph
                self.end_line()
                self.skip_lines()
            else:
                self.end_line()
                self.word("optimizer")
                graph = self.graph("optimizer")
            found[weight] = WeightUpdate(weight, states, graph, beside)
        return found.values()

    def _listed(self, word: str, one: bool = True) -> list[Value]:
        found: list[Value] = []
        while self.take_word(word):
            found.append(self.declared() if one else self._unlaid())
            self.end_line()
        return found

    def _beside(self) -> Iterable[tuple[str, Value]]:
        found = []
        while self.take_word("beside"):
            value = self.declared()
            self.word("for")
            found.append((self.text("a weight"), value))
            self.end_line()
        return found

    def _training(self, facts: dict[str, Any], model: Model, entry: str) -> Training | Placed:
        states, start, gradients, beside = self._states(), self.token, list(self._listed("gradient")), self._beside()
        if (count := len(model.trained) if entry == TRAIN_STEP else 0) != len(gradients):
            raise self.error(
                "E0606", f"{plural(count, 'weight')} to train, {plural(len(gradients), 'gradient')}", start
            )
        saved = self._listed("saved", False)
        reports: tuple[str, ...] = ()
        if self.take_word("reports"):
            reports = self.fact_of(tuple[str, ...])
            self.end_line()
        finished: tuple[str, ...] = ()
        count = 0
        if self.take_word("finished"):
            finished = self.fact_of(tuple[str, ...])
            self.word("of")
            count = self.natural()
            self.end_line()
        self.skip_lines()
        if self.placed:
            self.values = {}
        rounds: list[Round] = []
        laid: list[PlacedRound] = []
        while self.take_word("batch"):
            batch = self.graph("batch")
            if self.placed:
                self.word("settle")
                laid.append(PlacedRound(batch, self.graph("settle")))
            totals, others = self._listed("total", False), self._listed("beside", False)
            rounds.append(Round(batch, (*totals, *others), len(others)))
            self.skip_lines()
        nothing = Graph(f"{model.name}.nothing", (), (), ())
        graphs = {"backward": nothing, "update": nothing}
        trains = entry == TRAIN_STEP
        roles = ("forward", "backward" if trains else "", "finish", "update" if trains else "")
        for role in filter(None, roles):
            if role == "finish" and not finished and not (self.placed and self.sees_word(role)):
                continue  # of loss and metrics that wait, which placing finds
            self.called()
            self.word(role)
            graphs[role] = self.graph(role)
        job = Job(model=model, updates=(), **facts)
        direct = model.scored + sum(m not in finished for m in model.metrics)
        parts = graphs["forward"].outputs[direct : direct + count]
        end = graphs.get("finish")
        given = 0 if end is None else len(end.outputs) - len(finished)
        finish = None
        if end is not None and finished:
            own = Graph(end.name, end.inputs[given:], end.nodes, end.outputs[given:])
            finish = Finish(own, finished, parts)
        training = Training(
            job, graphs["forward"], graphs["backward"], graphs["update"], tuple(saved), tuple(gradients), states,
            reports, {}, tuple(rounds), finish, entry, tuple(beside),
        )  # fmt: skip
        if not self.placed:
            return training
        rules = Rules(job, Diagnostics())
        at = self.layouts
        return Placed(
            training, rules.axes, dict(rules.sizes), training.forward, training.backward, training.update,
            {w.name: at[w.name] for w in model.weights}, {s.name: at[s.name] for s in (*states, *model.states)},
            tuple(at[g.name] for _, g in training.added), training.backward.inputs[: len(saved)],
            training.update.inputs[: len(training.added)], (), (), None, (), tuple(laid), graphs.get("finish"),
        )  # fmt: skip
