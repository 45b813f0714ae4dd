"""`Elsewhere`: passes through the model that read weights, and save or load values, which rest in another memory.

What is read is moved in before its readers, of a loop's stack a slice in each iteration; what is saved is moved out as
soon as it is made, in a loop iteration by iteration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.memory.tiers import FIRST, HOST
from compiler.ops.effects import Load, Read, Save
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.passes.copying import away, here, substituted
from compiler.passes.far_rows import casts_behind
from compiler.passes.on_host import taken_there
from compiler.passes.paged import Tier
from compiler.walk import graph_values


class Elsewhere:
    """Of one function that runs for each micro-batch; tiers: by buffer."""

    def __init__(self, tiers: Mapping[str, Tier], taken: Collection[str] = ()) -> None:
        """taken: buffers of tables of which the hosts take rows."""
        self.tiers, self.taken = tiers, taken

    def run(self, body: Graph) -> Graph:
        """The function, with moves; the same where nothing of it rests elsewhere."""
        effects = [n.op for n in body.nodes if isinstance(n.op, Read | Load | Save)]
        if not any(op.name in self.tiers for op in effects):
            return body
        self.names = Names(v.name for v in graph_values(body))
        nodes = self._saved(body.nodes)
        far: dict[Value, Tier] = {}
        names: dict[Value, str] = {}
        env: dict[Value, Value] = {}
        found: list[Node] = []
        for node in nodes:
            if isinstance(node.op, Read | Load) and node.op.name in self.tiers:
                tier = self.tiers[node.op.name]
                env[node.output] = replace(node.output, memory=tier.memory)
                far[env[node.output]], names[env[node.output]] = tier, node.op.name
                found.append(replace(node, outputs=(env[node.output],)))
            else:
                found.append(substituted(node, env))
        taken = {v for v in far if names[v] in self.taken and v.memory == HOST}
        found = casts_behind(found, {v for v, tier in far.items() if tier.rows} | taken, self.names)
        found = taken_there(found, taken, self.names)
        return replace(body, nodes=tuple(self._fetched(found, far, False)[0]))

    # --- what is read

    def _fetched(
        self, nodes: Sequence[Node], far: Mapping[Value, Tier], inside: bool, results: Sequence[Value] = ()
    ) -> tuple[list[Node], tuple[Value, ...]]:
        """The nodes with moves of what they read elsewhere, and what they give. inside: of a loop, in which all of
        `far` are slices."""
        nodes = [self._loop(n, n.op, far) if isinstance(n.op, Repeat) else n for n in nodes]
        readers: dict[tuple[Value, int], int] = {}  # by value and part of the body: where it is read first
        part, parts = 0, []
        for i, node in enumerate(nodes):
            part += isinstance(node.op, Repeat)  # loops, and what stands between them: they last
            parts.append(part)
            for v in self._reads(node, far):
                if v in far:
                    readers.setdefault((v, part), i)
            part += isinstance(node.op, Repeat)
        for v in results:
            if v in far:
                readers.setdefault((v, part), len(nodes))
        before: dict[int, list[tuple[Value, int]]] = {}
        order = sorted(readers, key=readers.__getitem__)
        for k, key in enumerate(order):
            first = readers[key] if inside else readers[order[max(0, k - far[key[0]].ahead)]]
            before.setdefault(first, []).append(key)
        env: dict[tuple[Value, int], Value] = {}
        found: list[Node] = []
        for i in range(len(nodes) + 1):
            for key in before.get(i, ()):
                env[key] = here(key[0], self.names)
                op = Move(key[0].memory, FIRST, far[key[0]].ahead if inside else 0)
                found.append(Node(op, key[:1], (env[key],)))
            if i < len(nodes):
                found.append(self._on(nodes[i], {v: env[v, p] for v, p in env if p == parts[i]}, far))
        return found, tuple(env.get((v, part), v) for v in results)

    def _reads(self, node: Node, far: Mapping[Value, Tier]) -> Sequence[Value]:
        """What it reads in the devices' memory: of a loop all but the stacks of which its body moves slices. Of a table
        that rests elsewhere whoever takes rows reads them there."""
        op = node.op
        at = node.far
        if node.op.reaches is not None and at is None and node.output.memory != FIRST:
            return ()  # computed where it rests
        if at is not None and node.inputs[at] in far and far[node.inputs[at]].rows:
            return (*node.inputs[:at], *node.inputs[at + 1 :])
        if isinstance(op, Move) and op.source != FIRST:
            return ()
        return (
            (*node.inputs[: op.carries], *node.inputs[op.carries + op.stacks :])
            if isinstance(op, Repeat)
            else node.inputs
        )

    def _on(self, node: Node, env: Mapping[Value, Value], far: Mapping[Value, Tier]) -> Node:
        """The node on what was moved in."""
        op = node.op
        if not isinstance(op, Repeat):
            read = self._reads(node, far)
            return substituted(node, {v: env[v] for v in read if v in env}) if read else node
        stacks = range(op.carries, op.carries + op.stacks)
        inputs = (v if k in stacks else env.get(v, v) for k, v in enumerate(node.inputs))
        return replace(node, inputs=tuple(inputs))

    def _loop(self, node: Node, op: Repeat, far: Mapping[Value, Tier]) -> Node:
        """A loop, in whose body slices of stacks are moved in."""
        body = op.body
        slices: dict[Value, Tier] = {}
        env: dict[Value, Value] = {}
        for k in range(op.carries, op.carries + op.stacks):
            tier = far.get(node.inputs[k])
            if tier is not None:
                env[body.inputs[k]] = replace(body.inputs[k], memory=tier.memory)
                slices[env[body.inputs[k]]] = tier
        if not slices:
            return node
        nodes = [substituted(n, env) for n in body.nodes]
        found, results = self._fetched(nodes, slices, True, [env.get(v, v) for v in body.outputs])
        inputs = tuple(env.get(v, v) for v in body.inputs)
        return replace(node, op=replace(op, body=replace(body, inputs=inputs, nodes=tuple(found), outputs=results)))

    # --- what is saved

    def _saved(self, nodes: Sequence[Node]) -> list[Node]:
        """The nodes; what is saved elsewhere is moved out behind what makes it."""
        saves = {n.inputs[0]: n.op.name for n in nodes if isinstance(n.op, Save) and n.op.name in self.tiers}
        found, env = self._out(nodes, {v: self.tiers[name].memory for v, name in saves.items()})
        return [
            replace(n, inputs=(env[n.inputs[0]],)) if isinstance(n.op, Save) and n.op.name in self.tiers else n
            for n in found
        ]

    def _out(self, nodes: Sequence[Node], wanted: Mapping[Value, str]) -> tuple[list[Node], dict[Value, Value]]:
        """The nodes with moves of these values to memories, and what stands there for each."""
        read = {v for n in nodes if not isinstance(n.op, Save) for v in n.inputs}
        made = {v for n in nodes for v in n.outputs}
        env: dict[Value, Value] = {}
        found: list[Node] = []
        for v, memory in wanted.items():
            if v not in made:  # what a loop is given
                env[v] = away(v, memory, self.names)
                found.append(Node(Move(FIRST, memory), (v,), (env[v],)))
        for node in nodes:
            op = node.op
            stacks = node.outputs[op.carries :] if isinstance(op, Repeat) else ()
            mine = {v: wanted[v] for v in node.outputs if v in wanted}
            inner = {v: m for v, m in mine.items() if v in stacks}
            if isinstance(op, Repeat) and inner:
                node = self._stacks_out(node, op, inner, {v for v in inner if v in read}, env)
            found.append(node)
            for v, memory in mine.items():
                if v not in inner:
                    env[v] = away(v, memory, self.names)
                    found.append(Node(Move(FIRST, memory), (v,), (env[v],)))
        return found, env

    def _stacks_out(
        self, node: Node, op: Repeat, stacks: Mapping[Value, str], read: set[Value], env: dict[Value, Value]
    ) -> Node:
        """A loop whose stacks are made in other memories; read: those that are needed here as well."""
        place = {v: k for k, v in enumerate(node.outputs)}
        results = {op.body.outputs[place[v]]: memory for v, memory in stacks.items()}
        nodes, moved = self._out(op.body.nodes, results)
        outputs, given = list(node.outputs), list(op.body.outputs)
        for v, memory in stacks.items():
            result = moved[op.body.outputs[place[v]]]
            if v in read:
                env[v] = away(v, memory, self.names)
                outputs.append(env[v])
                given.append(result)
            else:
                outputs[place[v]] = env[v] = replace(v, memory=memory)
                given[place[v]] = result
        body = replace(op.body, nodes=tuple(nodes), outputs=tuple(given))
        return replace(node, op=replace(op, body=body), outputs=tuple(outputs))
