"""Reads the schedules of `.npu` text."""

from __future__ import annotations

from compiler.program import Affine, For, FunctionPhase, Run, Schedule, Update
from compiler.text.bodies import BodyParser


class ScheduleParser(BodyParser):
    """`F[0..3 - g]`, `for i in 0..5 { F[i + 3] B[i] }`, `U`."""

    def schedule(self) -> Schedule:
        self.word("schedule")
        self.mark("{")
        self.skip_lines()
        elements: list[Run | For | Update] = []
        while not self.sees("}"):
            if self.sees_word("for"):
                elements.append(self._for())
            elif self.sees_word(FunctionPhase.UPDATE) and self.tokens[self.at + 1].kind == "newline":
                self.next()
                elements.append(Update())
            else:
                action, chunk = self.action()
                self.mark("[")
                low = self.group_affine()
                high = self.group_affine() if self.take("..") else Affine(low.base + 1, low.slope)
                self.mark("]")
                elements.append(Run(action, chunk, low, high))
            self.end_line()
        self.mark("}")
        self.end_line()
        return tuple(elements)

    def _for(self) -> For:
        start = self.token
        for part in ("for", "i", "in"):
            self.word(part)
        if self.natural() != 0:
            raise self.error("E0601", "a loop starts at 0", start, "for i in 0..COUNT")
        self.mark("..")
        count = self.group_affine()
        self.mark("{")
        steps: list[tuple[FunctionPhase, int, Affine]] = []
        strides: set[int] = set()
        while not self.sees("}"):
            action, chunk = self.action()
            self.mark("[")
            terms = self.affine("i", "g")
            strides.add(terms["i"])
            steps.append((action, chunk, Affine(terms[""], terms["g"])))
            self.mark("]")
        self.mark("}")
        if len(strides) != 1:
            raise self.error("E0601", "a loop has a step, and all its steps the same factor of `i`", start)
        return For(count, strides.pop(), tuple(steps))
