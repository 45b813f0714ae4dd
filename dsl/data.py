"""`dataclass` of the standard library, at a fraction of its cost: same meaning, same arguments, where parc needs them.

The library compiles up to eight methods of a class as it is made: more than half of the time in which parc was loaded.
Here a method is compiled when it is first called, and fills the slots of a frozen object without a detour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

_T = TypeVar("_T")

_KEPT = 1 << 15
"""How many objects of a `Shared` class are kept to be given again."""

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass

    def fix(made: object, **facts: object) -> None:
        """Set fields of a frozen object, in `__post_init__`."""

else:
    import dataclasses
    from dataclasses import MISSING, FrozenInstanceError, fields
    from functools import lru_cache

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
            if issubclass(cls, Shared):
                _share(cls)
            return cls

        return make if cls is None else make(cls)

    def _share(cls):
        fill, digest = _compiled(cls, "__init__", *_init(cls, True, True)), _compiled(cls, "__hash__", *_hash(cls))

        @lru_cache(_KEPT)
        def new(of, *values, **named):
            made = object.__new__(of)
            fill(made, *values, **named)
            fix(made, hashed=digest(made))
            return made

        cls.__new__ = new
        cls.__init__ = object.__init__
        cls.__hash__ = Shared.__hash__
        cls.__reduce__ = lambda self: (cls, tuple(getattr(self, f.name) for f in fields(self) if f.init))

    def _later(cls, name, write):
        """Give the class a method whose source `write` makes of it when it is first called."""

        def first(self, *args, **kwargs):
            method = _compiled(cls, name, *write(cls))
            setattr(cls, name, method)
            return method(self, *args, **kwargs)

        setattr(cls, name, first)

    def _compiled(cls, name, source, known):
        exec(source, known)
        known[name].__qualname__ = f"{cls.__qualname__}.{name}"
        return known[name]

    def _init(cls, frozen, slots):
        known = {"MISSING": MISSING}
        parameters, keywords, body = [], [], []
        for f in fields(cls):
            name, value = f.name, f.name
            if f.default is not MISSING:
                known[f"default_{name}"] = f.default
                default = f"=default_{name}"
            elif f.default_factory is not MISSING:
                known[f"make_{name}"] = f.default_factory
                default = "=MISSING"
                value = f"make_{name}() if {name} is MISSING else {name}" if f.init else f"make_{name}()"
            elif f.init:
                default = ""
            else:
                continue
            if f.init:
                (keywords if f.kw_only else parameters).append(name + default)
            elif f.default is not MISSING:
                value = f"default_{name}"
            if not frozen:
                body.append(f"self.{name} = {value}")
            elif slots:
                known[f"set_{name}"] = getattr(cls, name).__set__
                body.append(f"set_{name}(self, {value})")
            else:
                known["fill"] = object.__setattr__
                body.append(f"fill(self, {name!r}, {value})")
        if hasattr(cls, "__post_init__"):
            body.append("self.__post_init__()")
        listed = ", ".join(["self", *parameters, *(["*", *keywords] if keywords else [])])
        return f"def __init__({listed}):\n " + "\n ".join(body or ["pass"]), known

    def _eq(cls):
        names = [f.name for f in fields(cls) if f.compare]
        mine, others = ("".join(f"{x}.{n}, " for n in names) for x in ("self", "other"))
        return (
            "def __eq__(self, other):\n"
            " if self is other: return True\n"
            f" return ({mine}) == ({others}) if other.__class__ is self.__class__ else NotImplemented"
        ), {}

    def _hash(cls):
        names = [f.name for f in fields(cls) if (f.compare if f.hash is None else f.hash)]
        return f"def __hash__(self):\n return hash(({''.join(f'self.{n}, ' for n in names)}))", {}

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


class Shared:
    """Base of frozen classes whose equal objects are one, as long as it is among the last `_KEPT` that were made. So to
    compare two is mostly to see that they are the same, their hash is there, and what `__post_init__` works out of the
    fields (`fix`) is worked out once. All fields that are given can be hashed, and are given in their order.
    """

    __slots__ = ("hashed",)

    def __hash__(self) -> int:
        return self.hashed  # type: ignore[attr-defined, no-any-return]
