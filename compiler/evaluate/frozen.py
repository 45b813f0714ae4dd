"""`frozen`: which weights of a job's model are not trained."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.evaluate.session import listed
from compiler.model import Model
from dsl import ast
from dsl.diagnostics import Diagnostics, did_you_mean, fail


class Patterns:
    """The job's `frozen` statements; asked of each weight as it is declared, since its type depends on it."""

    def __init__(self, statements: Sequence[ast.Frozen]) -> None:
        self.statements = statements
        self._effect: set[ast.Path] = set()  # patterns that weights match; kept ones, that would be frozen otherwise

    def hold(self, weight: str) -> bool:
        """Whether the weight of this path is frozen: by one of the statements, and not kept by the same."""
        return any([self._holds(s, weight) for s in self.statements])

    def _holds(self, statement: ast.Frozen, weight: str) -> bool:
        meant = [p for p in statement.weights if matches(p, weight)]
        self._effect.update(meant)
        if statement.weights and not meant:
            return False
        kept = [p for p in statement.keep if matches(p, weight)]
        self._effect.update(kept)
        return not kept

    def check(self, model: Model) -> None:
        """Raises ParcError for patterns that no weight matches, and where nothing is left to be trained."""
        if not self.statements:
            return
        found = Diagnostics()
        names = [w.name for w in model.weights]
        for statement in self.statements:
            for what, pattern in [("", p) for p in statement.weights] + [("keep ", p) for p in statement.keep]:
                if pattern in self._effect:
                    continue
                if any(matches(pattern, n) for n in names):
                    message = f"`keep {pattern}` changes nothing: no path of this `frozen` names such a weight"
                    found.error("E0404", message, pattern.span, help="leave it out")
                    continue
                message = f"`frozen {what}{pattern}`: `{model.name}` has no weight of this path"
                found.error("E0404", message, pattern.span, help=_meant(str(pattern), names))
        found.raise_if_any()
        for statement in self.statements:
            if statement.keep and not any(self._holds(statement, n) for n in names):
                message = "this `frozen` changes nothing: its `keep` has all that it names"
                found.error("E0404", message, statement.span, help="leave it out, or keep fewer")
        found.raise_if_any()
        if model.trained:
            return
        message = f"all weights of `{model.name}` are frozen: there is nothing to train"
        help = f"leave one out, such as `frozen keep {names[-1]}`"
        if not all(self.hold(n) for n in names):
            message = f"of the weights of `{model.name}` that are not frozen the loss's derivative reaches none"
            help = "let the loss depend on one of them otherwise than through `stop_gradient` or integers"
        raise fail("E0317", message, self.statements[0].span, help=help)


class Everything(Patterns):
    """Of a job that trains nothing: no weight is."""

    def __init__(self) -> None:
        super().__init__(())

    def hold(self, weight: str) -> bool:
        return True


def matches(pattern: ast.Path, weight: str) -> bool:
    """Whether the pattern is the weight's path, or that of a scope around it; `*` stands for any names, or none."""
    path = weight.split(".")
    at = {0}
    for part in pattern.parts:
        if part.id == "*":
            at = set(range(min(at), len(path) + 1))
        else:
            at = {i + 1 for i in at if i < len(path) and path[i] == part.id}
        if not at:
            return False
    return True


def _meant(pattern: str, weights: Sequence[str]) -> str | None:
    """The path, or the scope, that was meant."""
    known: dict[str, None] = {}
    for name in weights:
        parts = name.split(".")
        known.update(dict.fromkeys(".".join(parts[:i]) for i in range(1, len(parts) + 1)))
    tails = [p for p in known if p.endswith(f".{pattern}")]
    if tails:
        return f"did you mean `{tails[0]}`{f', or `*.{pattern}`' if len(tails) > 1 else ''}?"
    return did_you_mean(pattern, known) or (f"its weights are {listed(weights, 12)}" if weights else None)
