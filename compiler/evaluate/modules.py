"""Files: what each defines and imports, its parameters and their overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

from compiler.evaluate import limits
from compiler.evaluate.session import Session, is_std, listed
from compiler.evaluate.sizes import constant
from compiler.evaluate.values import AUTO, BROKEN, Broken, Defined, Skip, Static, kind_of, show_static
from dsl import ast
from dsl.diagnostics import Diagnostic, ParcError, did_you_mean, fail, suggest
from dsl.files import load_use
from dsl.library import outline
from dsl.parser import parse
from dsl.source import Source, Span
from dsl.units import Quantity

KINDS: dict[type[ast.Item], str] = {
    ast.Function: "function",
    ast.Model: "model",
    ast.Optimizer: "optimizer",
    ast.Device: "device",
    ast.Cluster: "cluster",
    ast.Tactic: "tactic",
    ast.Strategy: "strategy",
    ast.Job: "job",
    ast.Param: "parameter",
}
KEYWORDS = {"fn": "function"} | {k: k for k in KINDS.values() if k not in ("function", "parameter")}
"""With what definitions begin, and their kinds."""


def _itself(item: ast.Definition) -> ast.Definition:
    return item


class Module:
    """One file. Each kind of definition has its own namespace: a strategy and a tactic may share a name."""

    def __init__(self, session: Session, source: Source, root: str) -> None:
        self.session = session
        self.source = source
        self.root = root
        self.entries: dict[tuple[str, str], Defined] = {}
        self.params: dict[str, tuple[ast.Param, Module]] = {}
        self.own: dict[tuple[str, str], Span] = {}
        self.checks: list[ast.Check] = []
        self.overrides: dict[str, str] = {}
        self._values: dict[str, Static | Broken] = {}
        self._open: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """Another process evaluates nothing in it: what is compiled refers to calls in it by the way."""
        return {"source": self.source, "root": self.root}

    @property
    def name(self) -> str:
        return self.source.name

    # --- definitions ------------------------------------------------------------------------------------

    def find(self, kind: str, name: ast.Name) -> Defined:
        """The definition of this kind and name."""
        entry = self.entries.get((kind, name.id))
        if entry is not None:
            return entry
        others = self.kinds(name.id)
        if others:
            raise fail("E0114", f"`{name.id}` is a {others[0]}, not a {kind}", name.span)
        known = [n for k, n in self.entries if k == kind]
        help = did_you_mean(name.id, known) or _where_to_find(kind, name.id)
        if help is None and known:
            help = f"there are {listed(known)}" if len(known) > 1 else f"there is `{known[0]}`"
        raise fail("E0103", f"there is no {kind} `{name.id}`", name.span, help=help)

    def kinds(self, name: str) -> list[str]:
        """The kinds of definitions that have this name."""
        kinds = [k for k, n in self.entries if n == name]
        return kinds + ["parameter"] * (name in self.params)

    def of_kind(self, kind: str) -> Iterator[Defined]:
        """This file's own definitions of a kind."""
        return (e for (k, _), e in self.entries.items() if k == kind and e.module is self)

    # --- parameters --------------------------------------------------------------------------------------

    def param_names(self) -> list[str]:
        return list(self.params)

    def param(self, name: str) -> Static | None:
        """The value of a file-level parameter; None if there is none of this name."""
        if name not in self.params:
            return None
        declared, home = self.params[name]
        if home is not self:
            return home.param(name)
        if name not in self._values:
            try:
                self._values[name] = self._evaluate(declared)
            except (ParcError, Skip) as error:
                self._values[name] = BROKEN
                self.session.failed(error)
        value = self._values[name]
        if isinstance(value, Broken):
            raise Skip
        return value

    def largest(self, most: int) -> list[tuple[str, int]]:
        """Integer parameters that are evaluated, by what shrinks the file's job most: the largest first."""
        known = [(n, home._values.get(n)) for n, (_, home) in self.params.items()]
        found = [(n, v) for n, v in known if isinstance(v, int) and not isinstance(v, bool) and v > 1]
        return sorted(found, key=lambda item: -item[1])[:most]

    def _evaluate(self, param: ast.Param) -> Static:
        from compiler.evaluate.expressions import static_value

        name = param.name.id
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            raise fail("E0108", f"parameters need each other: {circle}", param.name.span)
        self._open.append(name)
        try:
            sizes, alone = self.session.sizes, constant(param.default)
            if alone:
                self.session.sizes = None  # the parameter's value counts, not the numbers that it is written with
            try:
                value = 1 if self._left_open(param) else static_value(param.default, self)
            finally:
                self.session.sizes = sizes
            if name in self.overrides:
                value = _override(param, value, self.overrides[name])
            if sizes is not None and (alone or name in self.overrides):
                value = sizes.param(param, value)
            self._check_choice(param, value)
            return value
        finally:
            self._open.pop()

    def _left_open(self, param: ast.Param) -> bool:
        """Whether its default is `auto`, but it is set."""
        default = param.default
        open = isinstance(default, ast.Name) and default.id == AUTO and AUTO not in self.params
        return open and param.name.id in self.overrides

    def _check_choice(self, param: ast.Param, value: Static) -> None:
        from compiler.evaluate.expressions import static_value
        from compiler.evaluate.static import binary

        name, choices = param.name.id, param.choices
        where = f" (set by -D {name}={self.overrides[name]})" if name in self.overrides else ""
        if isinstance(choices, ast.Range):
            low, high = static_value(choices.low, self), static_value(choices.high, self)
            above = binary(">=", value, low, choices.span)
            if not (above and binary("<", value, high, choices.span)):
                message = f"`{name}` = {show_static(value)} is not in {show_static(low)}..{show_static(high)}{where}"
                raise fail("E0107", message, param.span, help="a range ends before its second number")
        elif choices is not None:
            allowed = [static_value(c, self) for c in choices]
            if not any(type(a) is type(value) and a == value for a in allowed):
                shown = ", ".join(map(show_static, allowed))
                message = f"`{name}` = {show_static(value)} is none of its choices{where}"
                raise fail("E0107", message, param.span, help=f"choose one of {shown}")


def _override(param: ast.Param, default: Static, text: str) -> Static:
    """The value of `-D name=text`, of the same kind as the default's."""
    name = param.name.id
    if isinstance(default, str) and not text.startswith('"'):
        return text
    source = f"param {name} = {text}\n"
    try:
        tree = parse(source, "<-D>")
        (item,) = tree.items
        assert isinstance(item, ast.Param)
        if item.choices is not None:
            raise ValueError
        from compiler.evaluate.expressions import literal_value

        value = literal_value(item.default)
    except (ParcError, ValueError, AssertionError):
        message = f"-D {name}={text}: this is not a value"
        raise fail("E0106", message, param.name.span, help=f"it is {kind_of(default)} in the file") from None
    if type(default) is float and type(value) is int:
        value = float(value)
    same = type(value) is type(default) or (type(default) is int and type(value) is float and param.choices is None)
    if same and isinstance(value, Quantity) and isinstance(default, Quantity):
        same = value.dimension == default.dimension
    if not same or (type(default) is int and type(value) is float):
        raise fail("E0106", f"-D {name}={text}: expected {kind_of(default)}, got {kind_of(value)}", param.name.span)
    return value


def _where_to_find(kind: str, name: str) -> str | None:
    """`use std.layers (gelu)`, if the standard library has it (or nearly)."""
    found = suggest_std(kind, name)
    return f"`use {found[0]} ({found[1]})`" if found else None


def suggest_std(kind: str, name: str) -> tuple[str, str] | None:
    """Module and name of the standard library's definition that is (nearly) called so."""
    from dsl.files import standard_modules

    known: dict[str, str] = {}
    for module in standard_modules():
        use = ast.Use(ast.Path((ast.Name("std"), ast.Name(module))))
        tree = _parsed(load_use(use, Source("", ""), "."))
        known |= {
            i.name.id: f"std.{module}"
            for i in tree.items
            if KINDS.get(type(i)) == kind and isinstance(i, ast.Definition)
        }
    best = name if name in known else suggest(name, known)
    return (known[best], best) if best else None


def devices_of_std() -> tuple[ast.Device, ...]:
    """The devices of the standard library, as they are written."""
    use = ast.Use(ast.Path((ast.Name("std"), ast.Name("devices"))))
    return tuple(i for i in _parsed(load_use(use, Source("", ""), ".")).items if isinstance(i, ast.Device))


def _parsed(source: Source) -> ast.File:
    return parse(source.text, source.name)


class Loader:
    """Loads a file and all that it uses, each once."""

    def __init__(self, session: Session, root: str) -> None:
        self.session = session
        self.root = root
        self.modules: dict[str, Module] = {}
        self.open: list[str] = []

    def load(self, source: Source, span: Span | None = None) -> Module:
        """The module of a source; errors in used files are reported, the rest is loaded all the same."""
        key = source.path or source.name
        if key in self.open:
            names = " -> ".join([*self.open[self.open.index(key) :], key])
            raise fail("E0104", f"files use each other in a circle: {names}", span)
        if key in self.modules:
            return self.modules[key]
        if len(self.modules) + len(self.open) >= limits.MAX_FILES:
            raise fail("E0906", f"more than {limits.MAX_FILES} files are used", span)
        self.session.sources[source.name] = source
        module = Module(self.session, source, self.root)
        if is_std(Span(source.name, 0, 0)):
            self._add_library(module)
            self.modules[key] = module
            return module
        tree = _parsed(source)
        self.open.append(key)
        try:
            for item in tree.items:
                try:
                    self._add(module, item)
                except ParcError as error:
                    self.session.report(error)
        finally:
            self.open.pop()
        self.modules[key] = module
        return module

    def _add_library(self, module: Module) -> None:
        """Definitions are parsed when somebody asks for them."""
        for found in outline(module.source):
            kind = KEYWORDS.get(found.keyword)
            if kind is None:
                self._add(module, found.read())
            else:
                _claim(module, kind, found.name)
                read = cast(Callable[[], ast.Definition], found.read)
                module.entries[kind, found.name.id] = Defined(found.name.id, read, module)

    def _add(self, module: Module, item: ast.Item) -> None:
        match item:
            case ast.Use():
                self._use(module, item)
            case ast.Check():
                module.checks.append(item)
            case ast.Param():
                _claim(module, "parameter", item.name)
                module.params[item.name.id] = (item, module)
            case ast.Definition():
                kind = KINDS[type(item)]
                if kind == "function" and is_builtin(item.name.id):
                    raise fail(
                        "E0102", f"`{item.name.id}` is a built-in function", item.name.span, help="choose another name"
                    )
                _claim(module, kind, item.name)
                module.entries[kind, item.name.id] = Defined(item.name.id, partial(_itself, item), module)

    def _use(self, module: Module, use: ast.Use) -> None:
        used = self.load(load_use(use, module.source, self.root), use.module.span)
        wanted = use.names or tuple(ast.Name(n, span=use.module.span) for n in _defined(used))
        for name in wanted:
            kinds = [k for k, n in used.entries if n == name.id and used.entries[k, n].module is used]
            own_param = name.id in used.params and used.params[name.id][1] is used
            if not kinds and not own_param:
                known = _defined(used)
                help = did_you_mean(name.id, known) or (
                    f"it defines {listed(known)}" if known else "it defines nothing"
                )
                self.session.diagnostics.add(
                    Diagnostic("E0105", f"`{use_name(use)}` does not define `{name.id}`", name.span, help=help)
                )
                continue
            for kind in kinds:
                if _claim(module, kind, name, imported=used):
                    module.entries[kind, name.id] = used.entries[kind, name.id]
            if own_param and _claim(module, "parameter", name, imported=used):
                module.params[name.id] = used.params[name.id]


def use_name(use: ast.Use) -> str:
    """The used module as written."""
    return str(use.module) if isinstance(use.module, ast.Path) else use.module.value


def _defined(module: Module) -> list[str]:
    names = [n for (_, n), e in module.entries.items() if e.module is module]
    return list(dict.fromkeys(names + [n for n, (_, home) in module.params.items() if home is module]))


def _claim(module: Module, kind: str, name: ast.Name, imported: Module | None = None) -> bool:
    """Note the definition; an error if the name is taken. False if the same thing was imported before."""
    before = module.own.get((kind, name.id))
    if before is None:
        module.own[kind, name.id] = name.span
        return True
    if imported is not None:
        entry = module.entries.get((kind, name.id))
        if entry is not None and entry.module is imported:
            return False
        if kind == "parameter" and module.params.get(name.id, (None, None))[1] is imported:
            return False
    raise fail("E0102", f"there are two {kind}s `{name.id}`", name.span, notes=[("the other is here", before)])


def is_builtin(name: str) -> bool:
    """Says whether the language itself has a function of this name."""
    from compiler.evaluate.builtins import BUILTINS

    return name in BUILTINS


def apply_overrides(module: Module, overrides: Mapping[str, str]) -> None:
    """Set `-D` values of the main file; evaluate all its parameters, so that errors show even if nothing uses them."""
    for name, text in overrides.items():
        if name in module.params and module.params[name][1] is module:
            module.overrides[name] = text
            continue
        own = [n for n, (_, home) in module.params.items() if home is module]
        help = did_you_mean(name, own) or (f"there are {listed(own)}" if own else "the file declares no parameters")
        module.session.diagnostics.error("E0106", f"-D {name}={text}: there is no parameter `{name}`", help=help)
    for name, (_, home) in module.params.items():
        if home is module:
            with suppress(Skip):
                module.param(name)


__all__ = ["KINDS", "Loader", "Module", "apply_overrides", "devices_of_std", "suggest_std"]
