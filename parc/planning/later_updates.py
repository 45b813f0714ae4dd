"""Updates whose bodies are made once somebody asks: most of a program's text is its update, and what does not fit is
known without, for kernels of optimizers need no room of their own."""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Graph
from compiler.passes.lower_update import ClassUpdate
from compiler.program import DeviceClass, Function, FunctionPhase, Program, StateDecl


class LaterUpdates:
    """Those of a program that is lowered with this in the place of `lower_update`: its updates do nothing yet.

    made: the lowered program with nothing but its updates; exchanges: whether there are all-to-alls in it, which are
    marked by all that is before them; ready: the same behind all passes; whole: functions with their updates, by the
    identity of those without."""

    def __init__(self) -> None:
        self.of: dict[int, ClassUpdate] = {}  # by group
        self.made: Program | None = None
        self.exchanges = False
        self.ready: Program | None = None
        self.whole: dict[int, tuple[Function, ...]] = {}

    def __call__(self, update: ClassUpdate) -> tuple[Graph, list[StateDecl]]:
        self.of.update(dict.fromkeys(update.groups, update))
        return Graph("", (), (), ()), update.states()

    def alone(self, program: Program) -> Program:
        """The lowered program with nothing but its updates. To be asked for once. Classes that share their functions
        share them again."""
        made: dict[int, tuple[Function, ...]] = {}
        for cls in program.classes:
            if id(cls.functions) not in made:
                body = self.of[cls.groups[0]].body()
                made[id(cls.functions)] = (Function(FunctionPhase.UPDATE, 0, body),)
        self.of.clear()
        return program.with_classes(replace(cls, functions=made[id(cls.functions)]) for cls in program.classes)


def with_updates(program: Program, updates: Program, made: dict[int, tuple[Function, ...]]) -> Program:
    """The program with the updates of another, which has nothing else. made: what became of functions, by identity:
    classes that share them share them again, and so do programs."""
    of = {g: cls.functions[0] for cls in updates.classes for g in cls.groups}

    def functions(cls: DeviceClass) -> tuple[Function, ...]:
        if id(cls.functions) not in made:
            mine = of[cls.groups[0]]
            made[id(cls.functions)] = tuple([mine if f.key == mine.key else f for f in cls.functions])
        return made[id(cls.functions)]

    return program.with_classes(replace(cls, functions=functions(cls)) for cls in program.classes)
