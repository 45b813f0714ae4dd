"""What a drawn job says besides its strategy: optimizers of the library and of its own, what is frozen, precision."""

from __future__ import annotations

from random import Random

from tests.property.case import Piece
from tests.property.draw_optimizer import VECTORS
from tests.property.drawing import Drawing

# A gradient that should be zero is rounding: Adam's `eps` must be large beside it for two right programs to agree.
OPTIMIZERS = (
    "sgd(lr = 0.002)",  # gradients of a few hundred occur: steps that throw the weights about make rounding visible
    "sgd(lr = 0.002, momentum = 0.9, nesterov = true)",
    "adam(lr = 0.01, eps = 1e-6)",
    "adamw(lr = 0.01, eps = 1e-6)",
    "adamw(lr = warmup_cosine(step, 0.01, 2, 10), eps = 1e-6)",
    "lamb(lr = 0.01)",
    "drawn_steps(lr = 0.002)",  # of its own: norms, means and maxima of a weight, over the iterations of loops, too
    "drawn_steps(lr = 0.002)",
)


def draw_optimizer(rng: Random) -> str:
    """One of them, perhaps with a bound on the gradients' norm."""
    found = rng.choice(OPTIMIZERS)
    return f"{found[:-1]}, clip = {rng.choice(['0.1', '1.0'])})" if rng.random() < 0.4 else found


def draw_steps(rng: Random, optimizer: str) -> tuple[Piece, ...]:
    """What an optimizer of its own does, in one or two steps."""
    return tuple(rng.sample(VECTORS, rng.choice([1, 1, 2]))) if optimizer.startswith("drawn_steps") else ()


def draw_frozen(rng: Random, d: Drawing) -> tuple[Piece, ...]:
    """Some weights or scopes by their paths, by their names wherever they stand, or all but some."""
    names = [path for path, _ in d.weights]
    if len(names) + len(d.holders) < 2 or not names or rng.random() >= 0.4:
        return ()
    loras = [h for h in d.holders if "lora" in h]
    if loras and rng.random() < 0.5:
        return (Piece("adapters", (rng.choice(["frozen *.base", "frozen keep *.low, *.high"]),)),)
    paths = [*names, *d.holders]
    some = rng.sample(paths, min(max(1, len(paths) // 2), rng.choice([1, 1, 2, 3])))
    kind = rng.choice(["frozen", "frozen", "keep", "name"])
    if kind == "name":
        some = [f"*.{p.rpartition('.')[2]}" for p in some]
    return (Piece("keep" if kind == "keep" else "frozen", (f"frozen {'keep ' * (kind == 'keep')}{', '.join(some)}",)),)


def draw_precision(rng: Random, seed: int) -> str:
    """Now and then narrower than the masters, or with a loss scale."""
    found = "f32" if seed % 5 == 4 else "f32, master f64" if seed % 10 == 3 else "f64"
    return f"{found}, loss_scale {rng.choice(['8.0', 'dynamic'])}" if rng.random() < 0.12 else found
