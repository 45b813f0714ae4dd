"""Rotary positions, as configurations of transformers 4 and 5 say them, and how the standard library writes them."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt
from typing import Any

from dsl.data import dataclass
from parc.importing.config import Config
from parc.importing.described import call
from parc.importing.rolling import counted

PLAIN = "default"
KINDS = (PLAIN, "linear", "dynamic", "yarn", "llama3", "longrope")


@dataclass(frozen=True, slots=True)
class RotaryKind:
    """How fast heads turn. turned: how many numbers of a head; speeds: the call that gives them, along `half`; "" where
    they follow from theta alone. amplitude: what is turned is multiplied by it. mscale: of YaRN, of the square root of
    the scores (DeepSeek). functions: that `speeds` calls."""

    theta: float
    size: int
    turned: int
    speeds: str = ""
    amplitude: float | str = 1.0
    mscale: float = 1.0
    functions: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether all follows from theta."""
        return not self.speeds and self.turned == self.size and self.amplitude == 1.0


def read_rotary(config: Config, size: int, theta: float, positions: int, partial: bool = False) -> RotaryKind:
    """The rotary positions of a model whose layers have the same. size: of a head; theta: the default; positions: the
    longest sequence; partial: whether the family knows of heads of which a part is turned."""
    found = config.part("rope_parameters") or config.part("rope_scaling")
    base = config.positive("rope_theta", theta)
    share = _share(config, 1.0, partial)
    return rotary_of(found, config, size, base, positions, share, partial)


def rotary_of(
    found: Config | None,
    config: Config,
    size: int,
    theta: float,
    positions: int,
    share: float = 1.0,
    partial: bool = False,
) -> RotaryKind:
    """The rotary positions that one object says (None: the plain ones). share: of a head that is turned, if the object
    does not say it; partial: whether the family knows of such heads."""
    if found is None:
        return _made("", config, size, theta, share)
    theta = found.positive("rope_theta", theta)
    share = _share(found, share, partial)
    kind = found.text("rope_type", found.text("type", PLAIN))
    found.seen.add("type")
    kind = {"su": "longrope", "mrope": PLAIN}.get(kind, kind) if kind != "mrope" else "mrope"
    if kind not in KINDS:
        found.refuse("rope_type" if "rope_type" in found else "type", f"`{kind}`", f"known are {', '.join(KINDS)}")
    turned = _turned(found, size, share)
    if kind == PLAIN:
        return _made("", found, size, theta, share)
    if kind == "linear":
        factor = found.positive("factor")
        return _made(call("rotary_speeds", "over half", theta, factor), found, size, theta, share)
    if kind == "dynamic":  # up to the longest sequence it is the plain one
        found.ignore("factor", "alpha", "original_max_position_embeddings")
        return _made("", found, size, theta, share)
    original = found.integer("original_max_position_embeddings", positions or None)
    if kind == "llama3":
        numbers = [found.positive(k) for k in ("factor", "low_freq_factor", "high_freq_factor")]
        if numbers[2] <= numbers[1]:
            found.wrong("high_freq_factor", f"is {numbers[2]:g}, which is not above `low_freq_factor`, {numbers[1]:g}")
        return _made(call("llama3_speeds", "over half", theta, *numbers, original), found, size, theta, share)
    if kind == "yarn":
        return _yarn(found, config, size, theta, positions, original, share)
    return _longrope(found, config, size, theta, positions, turned, share)


def _share(config: Config, default: float, partial: bool) -> float:
    """How much of a head is turned. Where a family has no such key, transformers 5.24 turns whole heads if the kind is
    the default one, whatever the key says, and fails at the others: what the model's owner meant is not known."""
    share = config.number("partial_rotary_factor", default)
    if share != 1 and not partial:
        config.refuse("partial_rotary_factor", f"{share:g}", "models of this kind turn whole heads (1, or no such key)")
    return share


def _turned(config: Config, size: int, share: float) -> int:
    turned = int(size * share)
    if turned < 2 or turned % 2 or turned > size:
        config.wrong("partial_rotary_factor", f"of heads of {size} turns {turned} numbers, which are no pairs")
    return turned


def _made(
    speeds: str,
    config: Config,
    size: int,
    theta: float,
    share: float,
    amplitude: float | str = 1.0,
    mscale: float = 1.0,
) -> RotaryKind:
    turned = _turned(config, size, share)
    if turned < size and not speeds:
        speeds = call("rotary_speeds", "over half", theta)
    return RotaryKind(theta, size, turned, speeds, amplitude, mscale)


def _mscale(factor: float, of: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * of * log(factor) + 1.0


def _yarn(
    found: Config, config: Config, size: int, theta: float, positions: int, original: int, share: float
) -> RotaryKind:
    factor = found.positive("factor")
    if theta <= 1:
        (found if "rope_theta" in found else config).wrong("rope_theta", f"is {theta:g}; YaRN needs more than 1")
    one, all_dim = found.weight("mscale", 0.0), found.weight("mscale_all_dim", 0.0)
    amplitude: float | str = 1.0
    if "attention_factor" in found:
        amplitude = found.positive("attention_factor")
    elif one and all_dim:
        amplitude = _mscale(factor, one) / _mscale(factor, all_dim)
    elif factor > 1:
        amplitude = f"0.1 * log({factor!r}) + 1.0"
    found.ignore("attention_factor")
    fast, slow = found.positive("beta_fast", 32.0), found.positive("beta_slow", 1.0)
    whole = found.flag("truncate", True)
    options: dict[str, Any] = {
        "fast": fast if fast != 32 else None,
        "slow": slow if slow != 1 else None,
        "whole": None if whole else False,
    }
    speeds = call("yarn_speeds", "over half", theta, factor, original, **options)
    return _made(speeds, found, size, theta, share, amplitude, _mscale(factor, all_dim) if all_dim else 1.0)


def _longrope(
    found: Config, config: Config, size: int, theta: float, positions: int, turned: int, share: float
) -> RotaryKind:
    """Each pair has a factor of its own, another one in sequences that are longer than the original ones."""
    original = config.integer(
        "original_max_position_embeddings", found.integer("original_max_position_embeddings", positions, 2), 2
    )
    factor = found.positive("factor", positions / original)
    usual = 1.0 if factor <= 1 else sqrt(1 + log(factor) / log(original))
    amplitude = found.positive("attention_factor", usual)
    texts = []
    for key in ("long_factor", "short_factor"):
        numbers = found.numbers(key)
        if len(numbers) != turned // 2 or min(numbers, default=0) <= 0:
            found.wrong(key, f"must have {turned // 2} numbers above 0, one for each pair")
        texts.append(_factors(key + "s", numbers))
    longer = f"long_factors(over half) if seq > {original} else short_factors(over half)"
    speeds = f"rotary_speeds(over half, {theta!r}) / ({longer})"
    return replace(_made(speeds, found, size, theta, share, amplitude), functions=tuple(texts))


def _factors(name: str, numbers: list[float]) -> str:
    """A function that gives these numbers along `half`; equal ones in a row together."""
    pieces = counted(numbers)
    if len(pieces) == 1:
        return f"fn {name}(half) {{\n  return full({numbers[0]!r}, half, dtype = master)\n}}"
    counts = sorted({n for _, n in pieces})
    dims = ", ".join(f"n{n} = {n}" for n in counts)
    fulls = [f"rename(full({x!r}, n{n}, dtype = master), n{n} -> part)" for x, n in pieces]
    return f"fn {name}(half) {{\n  dim {dims}\n  return concat({', '.join(fulls)}, over part -> half)\n}}"
