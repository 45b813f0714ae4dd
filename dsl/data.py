"""`dataclass` of the standard library, at a fraction of its cost: same meaning, same arguments, where parc needs them.

The library compiles up to eight methods of a class as it is made: more than half of the time in which parc was loaded.
Here a method is made when it is first called, of code that classes of as many fields share, and fills the slots of a
frozen object without a detour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

_KEPT = 1 << 15
"""How many objects of a `Unique` class are kept to be given again."""

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass

    def fix(made: object, **facts: object) -> None:
        """Set fields of a frozen object, in `__post_init__`."""

else:
    import dataclasses
    from dataclasses import MISSING, FrozenInstanceError, fields
    from functools import cache, lru_cache
    from types import FunctionType

    def fix(made, **facts):
        for name, value in facts.items():
            object.__setattr__(made, name, value)

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, kw_only=False):
        """Make a data type of the annotated class."""

        def make(cls):
            own = vars(cls)
            if cls.__doc__ is None:
                cls.__doc__ = cls.__name__  # the library would look for a signature instead
            cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
            _later(cls, "__init__", lambda cls: _init(cls, frozen, slots))
            if "__repr__" not in own:
                cls.__repr__ = _repr
            if eq:
                if "__eq__" not in own:
                    _later(cls, "__eq__", _eq)
                if "__hash__" not in own:
                    if frozen:
                        _later(cls, "__hash__", _hash)
                    else:
                        cls.__hash__ = None
            if frozen:
                cls.__setattr__ = cls.__delattr__ = _fixed
                if slots:
                    cls.__getstate__, cls.__setstate__ = _getstate, _setstate
            if issubclass(cls, Unique):
                _share(cls)
            return cls

        return make if cls is None else make(cls)

    def _share(cls):
        fill, digest = _init(cls, True, True), _hash(cls)

        @lru_cache(_KEPT)
        def new(of, *values, **named):
            made = object.__new__(of)
            fill(made, *values, **named)
            fix(made, hashed=digest(made))
            return made

        cls.__new__ = new
        cls.__init__ = object.__init__
        cls.__hash__ = Unique.__hash__
        cls.__reduce__ = lambda self: (cls, tuple(getattr(self, f.name) for f in fields(self) if f.init))

    def _later(cls, name, make):
        """Give the class a method that is made when it is first called."""

        def first(self, *args, **kwargs):
            method = make(cls)
            setattr(cls, name, method)
            return method(self, *args, **kwargs)

        setattr(cls, name, first)

    def _method(cls, source, names, known):
        """A function of the source, in which the fields `names` are called f0, f1…: so it is compiled once for all
        classes that are built alike."""
        called = {f"f{i}": name for i, name in enumerate(names)}
        code = _code(source)
        varnames, attributes = (tuple([called.get(n, n) for n in of]) for of in (code.co_varnames, code.co_names))
        made = FunctionType(code.replace(co_varnames=varnames, co_names=attributes), known)
        made.__qualname__ = f"{cls.__qualname__}.{code.co_name}"
        return made

    @cache
    def _code(source):
        known = {}
        exec(source, known)
        return next(of.__code__ for name, of in known.items() if name != "__builtins__")

    def _init(cls, frozen, slots):
        known = {"MISSING": MISSING, "fill": object.__setattr__}
        parameters, keywords, defaults, named, body = [], [], [], {}, []
        for i, f in enumerate(fields(cls)):
            default, value = f.default, f"f{i}"
            if f.default_factory is not MISSING:
                known[f"make{i}"] = f.default_factory
                value = f"make{i}() if f{i} is MISSING else f{i}" if f.init else f"make{i}()"
            elif not f.init and default is MISSING:
                continue
            elif not f.init:
                known[f"default{i}"], value = default, f"default{i}"
            if f.init:
                (keywords if f.kw_only else parameters).append(f"f{i}")
                if default is not MISSING or f.default_factory is not MISSING:
                    if f.kw_only:
                        named[f.name] = default
                    else:
                        defaults.append(default)
            if not frozen:
                body.append(f"self.f{i} = {value}")
            elif slots:
                known[f"set{i}"] = getattr(cls, f.name).__set__
                body.append(f"set{i}(self, {value})")
            else:
                known[f"name{i}"] = f.name
                body.append(f"fill(self, name{i}, {value})")
        if hasattr(cls, "__post_init__"):
            body.append("self.__post_init__()")
        listed = ", ".join(["self", *parameters, *(["*", *keywords] if keywords else [])])
        source = f"def __init__({listed}):\n " + "\n ".join(body or ["pass"])
        made = _method(cls, source, [f.name for f in fields(cls)], known)
        made.__defaults__, made.__kwdefaults__ = tuple(defaults), named
        return made

    def _eq(cls):
        names = [f.name for f in fields(cls) if f.compare]
        mine, others = ("".join(f"{x}.f{i}, " for i in range(len(names))) for x in ("self", "other"))
        source = (
            "def __eq__(self, other):\n"
            " if self is other: return True\n"
            f" return ({mine}) == ({others}) if other.__class__ is self.__class__ else NotImplemented"
        )
        return _method(cls, source, names, {})

    def _hash(cls):
        names = [f.name for f in fields(cls) if (f.compare if f.hash is None else f.hash)]
        source = f"def __hash__(self):\n return hash(({''.join(f'self.f{i}, ' for i in range(len(names)))}))"
        return _method(cls, source, names, {})

    def _repr(self):
        told = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
        return f"{self.__class__.__qualname__}({told})"

    def _fixed(self, name, value=None):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _getstate(self):
        return [getattr(self, f.name) for f in fields(self)]

    def _setstate(self, state):
        for f, value in zip(fields(self), state, strict=True):
            object.__setattr__(self, f.name, value)


class Unique:
    """Base of frozen classes whose equal objects are one, as long as it is among the last `_KEPT` that were made. So to
    compare two is mostly to see that they are the same, their hash is there, and what `__post_init__` works out of the
    fields (`fix`) is worked out once. All fields that are given can be hashed, and are given in their order.
    """

    __slots__ = ("hashed",)

    def __hash__(self) -> int:
        return self.hashed  # type: ignore[attr-defined, no-any-return]
