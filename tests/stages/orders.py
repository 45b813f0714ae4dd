"""Orders by hand that are drawn: in which nobody waits forever."""

from __future__ import annotations

from random import Random

from compiler.homes import Homes


def drawn_orders(rng: Random, homes: Homes, kinds: str, count: int) -> list[str]:
    """The actions of these kinds (`FB`, `FBW`) of so many micro-batches, for each group those of its stages, in a
    random order in which each comes behind what it needs. Each way has its part of the micro-batches."""
    each = count // homes.ways
    done: set[tuple[str, int, int]] = set()
    orders: list[list[str]] = [[] for _ in {*homes.groups}]

    def ready(kind: str, stage: int, mb: int) -> bool:
        if kind == "F":
            return stage % homes.way == 0 or ("F", stage - 1, mb) in done
        if kind == "B":
            return ("F", stage, mb) in done and ((stage + 1) % homes.way == 0 or ("B", stage + 1, mb) in done)
        return ("B", stage, mb) in done

    left = [
        (kind, stage, mb)
        for kind in kinds
        for stage in range(len(homes))
        for mb in range(stage // homes.way * each, (stage // homes.way + 1) * each)
    ]
    while left:
        chosen = rng.choice([action for action in left if ready(*action)])
        left.remove(chosen)
        done.add(chosen)
        kind, stage, mb = chosen
        orders[homes.group(stage)].append(f"{kind}{homes.chunk(stage) or ''}[{mb}]")
    return [" ".join(order) for order in orders]
