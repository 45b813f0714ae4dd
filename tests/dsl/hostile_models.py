"""Files that parse and are wrong in ways that could cost unbounded time or memory, by name (see test_hostile)."""

from __future__ import annotations

HEAD = "use std.optimizers (sgd)\nfn same(x) {\n  return x\n}\n"


def model(body: str, dims: str = "b = 4", strategy: str = "") -> str:
    """A whole file around the statements of a model; with rules, its job uses a strategy of them."""
    using = " using s" if strategy else ""
    rules = f"strategy s for m {{\n{strategy}\n}}\n" if strategy else ""
    return (
        f"{HEAD}model m() {{\n  dim {dims}\n  input x : f32[b]\n{body}\n}}\n{rules}"
        f"job fit {{\n  train m(){using}\n  optimizer sgd(lr = 0.1)\n}}\n"
    )


def rules(text: str, batch: str = "4", layers: str = "8") -> str:
    """A small model whose strategy has these rules."""
    loop = f"  repeat {layers} as block {{\n    weight w[d]\n    y = y * w\n  }}\n"
    body = f"  weight v[d]\n  y = x * v\n{loop}  loss sum(y)"
    return model(body, f"b = {batch}, d = 8", text)


PIPELINE = "  mesh (pp = 2)\n  pipeline block on pp, schedule {}"
DEVICE = "device e {\n  compute f32 1 TFLOP/s\n  memory 32 GB, 1 TB/s\n}\n"


def _nested(opening: str, inner: str, closing: str, depth: int) -> str:
    return opening * depth + inner + closing * depth


def _doubling(names: str, depth: int) -> str:
    """Lists of lists: 2 ** depth numbers, written in `depth` lines."""
    lines = [f"param {names}0 = [1, 1]"]
    lines += [f"param {names}{i} = [{names}{i - 1}, {names}{i - 1}]" for i in range(1, depth)]
    return "\n".join(lines) + "\n"


def _calls(width: int, depth: int, statement: str) -> str:
    """Functions that each call the one before `width` times: width ** depth statements."""
    text = f"fn f0(x) {{\n  {statement}\n  return x\n}}\n"
    for i in range(1, depth):
        inner = _nested(f"f{i - 1}(", "x", ")", width)
        text += f"fn f{i}(x) {{\n  return {inner}\n}}\n"
    return text


MODELS: dict[str, str] = {
    "10,000 layouts": rules("  mesh (a = 2)\n" + "  layout block.w[b/a]\n" * 8_000),
    # sizes
    "dim of 2^62": model("loss sum(x)", dims="b = 2 ** 62"),
    "dim of 10^4999": model("loss sum(x)", dims="b = 10 ** 4999"),
    "negative dim": model("loss sum(x)", dims="b = -(2 ** 62)"),
    "tensor of 2^80": model("dim c = 2 ** 40\nweight w[b,c]\nloss sum(w)", dims="b = 2 ** 40"),
    "pad to 2^62": model("dim t = 8\ny = pad(x, b -> t, 2 ** 62, 0, 0.0)\nloss sum(y)"),
    "slice to 2^62": model("y = slice(x, b, 0..2 ** 62)\nloss sum(y)"),
    "window of 2^62": model(
        "dim o = 2, k = 2\ny = window(x, b -> (o, k), stride = 2 ** 62, pad = 2 ** 62)\nloss sum(y)"
    ),
    "concat of many": model("dim t = 4000\ny = concat(" + "x, " * 999 + "x, over b -> t)\nloss sum(y, over b)"),
    "products of dims": model(
        "dim b0 = 8\n" + "\n".join(f"dim b{i} = b{i - 1} * 2 ** 9" for i in range(1, 9)) + "\nloss sum(x)"
    ),
    "range backwards": model("y = slice(x, b, 3..0)\nloss sum(y)"),
    "negative constant": model("weight w[b] ~ normal(-1.0)\nloss sum(x * w)"),
    "a state called w": model("weight v[b]\nloss sum(x * v)")
    .replace("sgd(lr = 0.1)", "o")
    .replace("model m", "optimizer o {\n  state w\n  state s\n  w = w - g + s\n}\n\nmodel m", 1),
    "w is no tensor": model("weight v[b]\nloss sum(x * v)")
    .replace("sgd(lr = 0.1)", "o")
    .replace("model m", "optimizer o {\n  w = 1\n  state s\n}\n\nmodel m", 1),
    # numbers
    "power of powers": "param x = 9 ** 9 ** 9 ** 9\n",
    "float power": "param x = 9.0 ** 9.0 ** 9.0\n",
    "huge default": "param x = 1 in 0..10 ** 400\n",
    "shift by power": "param x = (10 ** 70) ** 4 ** 4\n",
    "huge seed": HEAD + "model m() {\n  dim b = 4\n  input x : f32[b]\n  loss sum(x)\n}\n"
    "job fit {\n  train m()\n  optimizer sgd(lr = 0.1)\n  seed 10 ** 70\n}\n",
    "lists of lists": _doubling("p", 60) + _doubling("q", 60) + "check p59 == q59\n",
    "lists in a message": _doubling("p", 60) + "param x = p59 + 1\n",
    "lists as sizes": _doubling("p", 60) + model("loss sum(x)", dims="b = p59"),
    "lists as choices": _doubling("p", 60) + _doubling("q", 60) + "param x = p59 in {q59, q58}\n",
    # loops
    "repeat of 10^12": model("y = x\nrepeat 10 ** 12 as block {\n  weight w[b]\n  y = y * w\n}\nloss sum(y)"),
    "repeat of 10^9, 9 times": model(
        "y = x\n"
        + "".join(f"repeat 10 ** 9 as l{i} {{\n" for i in range(9))
        + "weight w[b]\ny = y * w\n"
        + "}\n" * 9
        + "loss sum(y)"
    ),
    "repeat of nothing": model("y = x\nrepeat 0 as block {\n  weight w[b]\n  y = y * w\n}\nloss sum(y)"),
    "repeat of -1": model("y = x\nrepeat -1 as block {\n  weight w[b]\n  y = y * w\n}\nloss sum(y)"),
    "repeat of half": model("y = x\nrepeat 0.5 as block {\n  weight w[b]\n  y = y * w\n}\nloss sum(y)"),
    "60 repeats inside one another": model(
        "y = x\n"
        + "".join(f"repeat 2 as l{i} {{\n" for i in range(60))
        + "weight w[b]\ny = y * w\n"
        + "}\n" * 60
        + "loss sum(y)"
    ),
    # functions
    "recursion": "fn f(x) {\n  return f(x)\n}\ncheck f(1) == 1\n",
    "recursion of two": "fn a(x) {\n  return b(x)\n}\nfn b(x) {\n  return a(x)\n}\n" + model("loss sum(a(x))"),
    "recursion behind a test": "fn a(n) {\n  return 1 if n == 0 else a(n - 1)\n}\ncheck a(10 ** 9) == 1\n",
    "recursion of a tactic": "tactic t(a) {\n  t(a)\n}\n" + rules("  mesh (a = 2)\n  t(a)"),
    "recursion of tactics": "tactic t(a) {\n  u(a)\n}\ntactic u(a) {\n  t(a)\n}\n" + rules("  mesh (a = 2)\n  t(a)"),
    "recursion of parameters": "param a = b\nparam b = c\nparam c = a\n",
    "recursion of defaults": "fn f(x = g()) {\n  return x\n}\nfn g(x = f()) {\n  return x\n}\ncheck f() == 1\n",
    "2^90 calls": _calls(3, 60, "y = 1") + "check f59(1) == 1\n",
    "2^90 operations": _calls(3, 60, "x = x * x") + model("loss sum(f59(x))"),
    "200 functions deep": "fn f0(x) {\n  return x\n}\n"
    + "".join(f"fn f{i}(x) {{\n  return f{i - 1}(x)\n}}\n" for i in range(1, 200))
    + model("loss sum(f199(x))"),
    "200 tactics deep": "tactic t0(a) {\n  split b on a\n}\n"
    + "".join(f"tactic t{i}(a) {{\n  t{i - 1}(a)\n}}\n" for i in range(1, 200))
    + rules("  mesh (a = 2)\n  t199(a)"),
    "2^100 tactics": "tactic t0(a) {\n  split b on a\n}\n"
    + "".join(f"tactic t{i}(a) {{\n  t{i - 1}(a)\n  t{i - 1}(a)\n}}\n" for i in range(1, 100))
    + rules("  mesh (a = 2)\n  t99(a)"),
    "200 parameters deep": "".join(f"param p{i} = p{i + 1}\n" for i in range(2000)) + "param p2000 = 1\n",
    # shapes of programs
    "conditionals inside one another": "param x = " + _nested("(1 if false else ", "y", ")", 60) + "\n",
    "conditionals in tests": "param x = " + _nested("1 if (", "y", ") else 2", 60) + "\n",
    "ifs inside one another": model(_nested("if true {\n", "y = z\n", "}\n", 61) + "loss sum(x)"),
    "ifs and repeats": model(
        "y = x\n"
        + "".join(f"repeat 2 as l{i} {{\nif true {{\n" for i in range(30))
        + "y = z\n"
        + "}\n" * 60
        + "loss sum(y)"
    ),
    "calls inside one another": model("y = " + _nested("same(", "z", ")", 62) + "\nloss sum(y)"),
    "20,000 statements": model("y = x\n" + "y = y * y\n" * 16_000 + "loss sum(z)"),
    "20,000 unknown names": model("".join(f"y = a{i}\n" for i in range(20_000)) + "loss sum(z)"),
    "10,000 weights": model("".join(f"weight w{i}[b]\n" for i in range(10_000)) + "loss sum(z)"),
    "10,000 dims": model("".join(f"dim d{i} = 2\n" for i in range(10_000)) + "loss sum(z)"),
    "10,000 functions": "".join(f"fn f{i}(x) {{\n  return x\n}}\n" for i in range(8_000)) + "check f(1) == 1\n",
    "a tensor of 10,000 dims": model(
        "dim "
        + ", ".join(f"d{i} = 1" for i in range(10_000))
        + "\nweight w["
        + ",".join(f"d{i}" for i in range(10_000))
        + "]\nloss sum(z)"
    ),
    "10,000 arguments": model("y = same(" + "x, " * 10_000 + "x)\nloss sum(y)"),
    "30,000 parameters": "fn f(" + ", ".join(f"p{i}" for i in range(30_000)) + ") {\n  return p\n}\ncheck f(1) == 1\n",
    "20,000 of one name": "fn f(x) {\n  return x\n}\n" * 8_000,
    "20,000 checks": "check 1 == 2\n" * 20_000,
    "20,000 checks that hold": "check 1 == 1\n" * 20_000,
    "20,000 outputs": "fn f(x) {\n  return " + "x, " * 20_000 + "x\n}\n" + model("y = f(x)\nloss sum(y)"),
    # strategies
    "axis of 10^12": rules("  mesh (a = 10 ** 12)\n  split b on a"),
    "mesh of 10^12": rules("  mesh (a = 10 ** 6, c = 10 ** 6)\n  split b on a"),
    "mesh of 2^300": rules("  mesh (" + ", ".join(f"a{i} = 2" for i in range(300)) + ")\n  split b on a0"),
    "mesh of 0": rules("  mesh (a = 0)\n  split b on a"),
    "10^12 micro-batches": rules("  mesh (pp = 2)\n  microbatches 10 ** 12 over b"),
    "schedule of 10^12": rules(PIPELINE.format("one_f_one_b(microbatches = 10 ** 12)")),
    "chunks of 10^12": rules(PIPELINE.format("interleaved(microbatches = 4, chunks = 10 ** 12)")),
    "cuts at 2^62": rules(PIPELINE.format("gpipe(microbatches = 2), cuts [2 ** 62]")),
    "30,000 cuts": rules(PIPELINE.format("gpipe(microbatches = 2), cuts [" + "1, " * 30_000 + "1]")),
    "10^9 stages": rules("  mesh (pp = 10 ** 9)\n  pipeline block on pp, schedule gpipe(microbatches = 2)"),
    "10^6 stages": rules(PIPELINE.format("gpipe(microbatches = 2)").replace("= 2", "= 10 ** 6", 1), layers="10 ** 9"),
    "places of 10^6": rules("  mesh (a = 10 ** 6)\n  place block on a[0]"),
    "place at 2^62": rules("  mesh (a = 2)\n  place block on a[2 ** 62]"),
    "10,000 rules": rules("  mesh (a = 2)\n" + "  split q on a\n" * 10_000),
    # clusters
    "cluster of 10^40": DEVICE
    + "cluster c {\n  device d = e\n"
    + "".join(f"  level l{i} = 10 ** 9 {f'l{i - 1}' if i else 'd'} over 1 GB/s, 1 us\n" for i in range(40))
    + "}\n"
    + model("loss sum(x)").replace("train m()", "train m() on c"),
}

# What is odd but fine, and must cost little too.
FINE: dict[str, str] = {
    "huge memory": DEVICE.replace("32 GB", "1e300 PB")
    + "cluster c {\n  device d = e\n  level l = 4 d over 1e-300 B/s, 1e308 h\n}\n"
    + model("loss sum(x)").replace("train m()", "train m() on c"),
    "schedule of 2^40": rules(PIPELINE.format("one_f_one_b(microbatches = 2 ** 40)"), batch="2 ** 40"),
    "2^40 micro-batches of 1": rules("  mesh (pp = 2)\n  microbatches 2 ** 40 over b", batch="2 ** 40"),
    "10^9 layers": rules("  mesh (a = 2)\n  split b on a", layers="10 ** 9"),
    "10^9 layers in 2 stages": rules(PIPELINE.format("gpipe(microbatches = 2)"), layers="10 ** 9"),
    "10^9 layers in 1,000 stages": rules(
        PIPELINE.format("one_f_one_b(microbatches = 4)").replace("pp = 2", "pp = 1000"), layers="10 ** 9"
    ),
    "10^9 layers in 4,096 stages": rules(
        PIPELINE.format("one_f_one_b(microbatches = 4)").replace("pp = 2", "pp = 4096"), layers="10 ** 9"
    ),
    "interleaved in 256 chunks": rules(
        PIPELINE.format("interleaved(microbatches = 4, chunks = 64)").replace("pp = 2", "pp = 4"), layers="10 ** 9"
    ),
    "2^20 micro-batches": rules(PIPELINE.format("one_f_one_b(microbatches = 2 ** 20)"), batch="2 ** 30"),
    "10^9 devices": rules("  mesh (a = 10 ** 9)\n  split b on a", batch="10 ** 9"),
    "29 axes": rules("  mesh (" + ", ".join(f"a{i} = 2" for i in range(29)) + ")\n  split b on a0"),
    "a dim of 2^40": model("weight w[b]\nloss sum(x * w)", dims="b = 2 ** 40"),
    "negative power": "param x = 2 ** -(10 ** 60)\n",
    "huge lr": model("weight w[b]\nloss sum(x * w)").replace("lr = 0.1", "lr = 10 ** 70"),
    "conditionals that are lazy": "param x = " + _nested("(1 if true else ", "y", ")", 60) + "\n",
}
