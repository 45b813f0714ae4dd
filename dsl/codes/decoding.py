"""Codes E078x and E0751: jobs that decode, generation, and the service."""

from __future__ import annotations

from dsl.codes.code import Code


def _job(body: str, decode: str = "decode over s") -> str:
    return f"""\
use std.layers (embedding, softmax)
model m() {{
  dim b = 2, s = 8, v = 11, d = 4
  input tokens : int32[b, s] in 0..v
  x = embedding(tokens, over v, over d)
{body}
  output y
}}
job serve {{
  infer m()
  {decode}
}}
"""


_SUMS = "  y = cumsum(x, over s)"
_ALL = """\
  dim t = s
  key[b, t, d] = rename(x, s -> t)
  scores[b, s, t] = x @ key
  y[b, s, d] = softmax(scores, over t{}) @ key"""

_SCORES = _job("  weight head[d, v]\n  y[b, s, v] = x @ head").replace("v = 11", "v = 256")
_LOW = """\
  dim t = s
  key[b, t, d] = rename(x, s -> t)
  scores[b, s, t] = x @ key{}
  z = where(iota(s) >= iota(t), scores, -30000.0)
  e = exp(z - max(z, over t))
  weight head[d, v]
  mixed[b, s, d] = e @ key
  y[b, s, v] = mixed @ head"""


_COUNTED = """\
program count
mesh ()
input x: f32[b=2]

entry decode(x) -> y

stage 0: devices 0 {
  output y: f32[b=2]
  state position: int32[] = zeros within 0..4
  fn F {
    %x: f32[b=2] = input x
    %position: int32[] = read position
    %next: int32[] = add %position, 4
    %y: f32[b=2] = mul %x, 2.0
    accumulate %y into y
    write %next to position
  }
  schedule {
    F[0]
  }
}
"""


def _scores(low: str) -> str:
    return _job(_LOW.format(low)).replace("v = 11", "v = 256")


def _kept(z: str) -> str:
    return _job(f"  z = {z}\n  weight head[d, v]\n  y[b, s, v] = z @ head").replace("v = 11", "v = 256")


def _paged(pages: int) -> str:
    made = _ALL.format(", keep = iota(s) >= iota(t)").replace("y[b, s, d]", "z[b, s, d]")
    text = _job(f"{made}\n  weight head[d, v]\n  y[b, s, v] = z @ head").replace("v = 11", "v = 256")
    rule = f"store caches as paged(slots = 4, pages = {pages})"
    strategy = f"strategy plan for m {{\n  mesh (dp = 1)\n  {rule}\n}}\n"
    return text.replace("job serve", f"{strategy}job serve").replace("infer m()", "infer m() using plan")


CODES: tuple[Code, ...] = (
    Code(
        "E0780",
        "the model looks ahead",
        "A job that decodes (`decode over s`) makes positions one after the other, so an output may hang on earlier "
        "ones and its own, not on later ones. The message names the op by which it does: a softmax or a norm over the "
        "dim, attention without a mask, experts that are chosen among all positions. What is taken over other "
        "positions is masked by their numbers (`keep = iota(s) >= iota(t)`), or by comparisons of them that are "
        "joined by `and`.",
        _job(_ALL.format("")),
        _job(_ALL.format(", keep = iota(s) >= iota(t)")),
    ),
    Code(
        "E0781",
        "no such positions",
        "`decode over s` names a dim of the model's data, and `prefill` says how many positions of it come at once at "
        "first: from 1 to all.",
        _job(_SUMS, "decode over s, prefill 9"),
        _job(_SUMS, "decode over s, prefill 8"),
    ),
    Code(
        "E0782",
        "no incremental form",
        "What a job decodes must be known position by position. A state that the model renews itself counts passes, "
        "not positions: how often it is renewed would depend on how many positions come at once.",
        _job("  state passes\n  passes = passes + 1.0\n  y = x + passes").replace("state passes", "state passes : f32"),
        _job("  y = x + cast(iota(s), f32)"),
    ),
    Code(
        "E0783",
        "no job that makes text",
        "`parc generate` takes a job that infers and decodes (`decode over s`), of a model with one input of tokens "
        "(`int32[b, s]`) and an output of scores, with one dim more. `parc serve` takes such a job, or one that makes "
        "a vector of each text: it infers, of tokens and of lengths (`int32[b]`), an output `[b, d]`.",
        _SCORES.replace("  decode over s\n", ""),
        _SCORES,
    ),
    Code(
        "E0784",
        "a prompt that cannot be read",
        "A prompt has at least one token and at most as many as there are positions, and characters that the model's "
        "data have; there are as many prompts at most as the batch of the job's model has rows.",
        _SCORES.replace("s = 8", "s = 1"),
        _SCORES,
    ),
    Code(
        "E0785",
        "no such tokenizer",
        "A tokenizer is `byte`, the path of a `tokenizer.json` (with the package `tokenizers`), or, without "
        "`--tokenizer`, that of the job's `data text(…)`, else bytes. It has no more tokens than the model knows.",
        _SCORES.replace("v = 256", "v = 255"),
        _SCORES,
    ),
    Code(
        "E0786",
        "scores that are not numbers",
        "Nothing can be chosen by them. A mask by a number (`where(seen, scores, -30000.0)`) makes nothing of later "
        "positions only where scores are far above it; where they are not, positions by themselves would give "
        "something else than all of them at once, and the program gives NaN. So do weights that are not numbers.",
        _scores(" - 30000.0"),
        _scores(""),
    ),
    Code(
        "E0787",
        "no draft for this model",
        "With `parc generate --draft FILE` a second model guesses some tokens, which the first reads at once. Both "
        "have the same tokens and a row for each prompt, and both can go back: guesses that are not taken are read "
        "anew, so that all that is kept of earlier positions has a place for each of them. Sums over positions, scans, "
        "and windows that keep the last few positions alone have not.",
        _kept("cumsum(x, over s)"),
        _kept("x"),
    ),
    Code(
        "E0788",
        "no such page",
        "With `store caches as paged(slots = 16, pages = 4096)` sequences have pages of one pool as they grow. Prompts "
        "that are read together must have room in it; what grows later and finds no page left ends there. A table that "
        "gives a sequence a page that the pool does not have is refused.",
        _paged(2),
        _paged(4),
    ),
    Code(
        "E0789",
        "beyond the last place",
        "A lowered program that decodes counts positions in a state, and says how many there can be (`within 0..49`: "
        "48 have gone before at most). A step that would go beyond is refused: there is nowhere to keep what it "
        "computes, and what it gives means nothing. Any state of integers can be declared so.",
        _COUNTED,
        _COUNTED.replace("0..4", "0..5"),
    ),
    Code(
        "E0751",
        "the service cannot begin",
        "`parc serve` needs the packages `starlette` and `hypercorn` (the extra `serve` of parc), an address of this "
        "machine at which nobody else listens (`--host`, `--port`; port 0 takes any that is free), and a worker, a "
        "process of its own, that gets ready: three that end before are enough, and have told why.",
        "# --host 192.0.2.1\n" + _SCORES,
        _SCORES,
    ),
)
