"""`dsl.data.dataclass` means what the standard library's means."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field, fields, replace
from typing import Any, ClassVar

import pytest

import dsl.data

Make = Callable[..., Any]
BOTH = pytest.mark.parametrize("dataclass", [dsl.data.dataclass, dataclasses.dataclass], ids=["ours", "library"])


def made(dataclass: Make, **options: bool) -> Any:
    """A class with all that parc uses of fields."""

    @dataclass(**options)
    class Base:
        shared: ClassVar[int] = 1
        a: int
        b: list[int] = field(default_factory=list)
        note: str = field(default="", compare=False, repr=False, kw_only=True)

    @dataclass(**options)
    class Derived(Base):
        c: float = 2.0
        d: int = field(init=False, default=7)

    return Derived


OPTIONS = [dict(frozen=f, slots=s) for f in (True, False) for s in (True, False)]


@BOTH
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_objects_hold_their_fields(dataclass: Make, options: dict[str, bool]) -> None:
    cls = made(dataclass, **options)
    one = cls(1)
    assert (one.a, one.b, one.c, one.d, one.note) == (1, [], 2.0, 7, "")
    assert one.b is not cls(1).b
    two = cls(1, [3], 4.0, note="n")
    assert (two.a, two.b, two.c, two.d, two.note) == (1, [3], 4.0, 7, "n")
    assert [f.name for f in fields(two)] == ["a", "b", "note", "c", "d"] and cls.__match_args__ == ("a", "b", "c")
    assert replace(two, a=5) == cls(5, [3], 4.0)
    wrongs: list[tuple[Any, ...]] = [(), (1, [], 2.0, "note"), (1, [], 2.0, 7)]
    for wrong in wrongs:
        with pytest.raises(TypeError, match=r"__init__\(\)"):
            cls(*wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'd'"):
        cls(1, d=3)


@BOTH
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_is_what_has_equal_fields_that_compare(dataclass: Make, options: dict[str, bool]) -> None:
    cls, other = made(dataclass, **options), made(dataclass, **options)
    assert cls(1, [2]) == cls(1, [2], note="another") and cls(1) != cls(2) and cls(1) != other(1) and cls(1) != 1
    assert repr(cls(1, [2])).endswith("Derived(a=1, b=[2], c=2.0, d=7)")
    if options["frozen"]:
        assert hash(cls(1, ())) == hash(cls(1, (), note="another"))
    else:
        assert cls.__hash__ is None


@BOTH
@pytest.mark.parametrize("slots", [True, False])
def test_frozen_objects_do_not_change(dataclass: Make, slots: bool) -> None:
    one = made(dataclass, frozen=True, slots=slots)(1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'a'"):
        one.a = 2
    with pytest.raises(FrozenInstanceError):
        del one.a
    assert one.a == 1


@BOTH
def test_what_a_class_says_itself_stays(dataclass: Make) -> None:
    @dataclass(frozen=True, slots=True)
    class Own:
        x: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 3

    @dataclass(frozen=True, slots=True, eq=False)
    class Itself:
        x: int

    @dataclass
    class After:
        x: int

        def __post_init__(self) -> None:
            self.x += 1

    assert repr(Own(1)) == "own" and Own(1) == Own(2) and hash(Own(1)) == 3
    assert Itself(1) != Itself(1) and len({Itself(1), Itself(1)}) == 2
    assert After(1).x == 2


@dsl.data.dataclass(frozen=True, slots=True)
class Kept:
    x: int
    y: tuple[str, ...] = ()


def test_frozen_objects_can_be_copied_and_kept() -> None:
    one = Kept(1, ("a",))
    for again in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert again == one and type(again) is Kept


def test_nothing_is_compiled_before_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compiled")

    with monkeypatch.context() as patch:
        patch.setattr(dataclasses, "_create_fn", refuse, raising=False)
        patch.setattr("builtins.exec", refuse)
        cls: Any = dsl.data.dataclass(frozen=True, slots=True)(type("Late", (), {"__annotations__": {"x": int}}))
    assert cls(1) == cls(1)
