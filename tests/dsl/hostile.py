"""Inputs that break parsers, by name. Run as a program, it parses one of them within limits (see test_hostile)."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

N = 100_000


def _junk() -> str:
    return random.Random(7).randbytes(3_000_000).decode("latin-1")


CASES: dict[str, Callable[[], str]] = {
    "open parentheses": lambda: "param x = " + "(" * N,
    "nested parentheses": lambda: "param x = " + "(" * N + "1" + ")" * N,
    "nested lists": lambda: "param x = " + "[" * N + "]" * N,
    "nested calls": lambda: "param x = " + "f(" * N + ")" * N,
    "open braces": lambda: "fn f() {\n" + "if a {\n" * N,
    "nested ifs": lambda: "fn f() {\n" + "if a {\n" * N + "}\n" * N + "}\n",
    "only braces": lambda: "{" * N,
    "closing braces": lambda: "}" * N,
    "mixed brackets": lambda: "([{)]}" * N,
    "unary minus": lambda: "param x = " + "-" * (N // 2) + "1",
    "not not": lambda: "param x = " + "not " * (N // 2) + "true",
    "powers": lambda: "param x = 1" + " ** 1" * (N // 3),
    "conditionals": lambda: "param x = 1" + " if a else 1" * (N // 5),
    "else if": lambda: "fn f() {\nif a {\n" + "} else if a {\n" * (N // 7) + "}\n}\n",
    "flat sum": lambda: "param x = 1" + " + 1" * N,
    "shorter flat sum": lambda: "param x = 1" + " + 1" * (N // 3),
    "flat and": lambda: "param x = a" + " and a" * (N // 3),
    "attributes": lambda: "param x = a" + ".a" * (N // 3),
    "labels": lambda: "param x = " + "f(" * N + " as a" * N,
    "long list": lambda: "param x = [" + "1, " * (N // 3) + "1]",
    "arguments": lambda: "param x = f(" + "a, " * (N // 3) + "a)",
    "a million parameters": lambda: "fn f(" + ", ".join(f"p{i}" for i in range(10 * N)) + ") {\n}\n",
    "many parameters": lambda: "fn f(" + ", ".join(f"p{i}" for i in range(N // 3)) + ") {\n}\n",
    "many statements": lambda: "fn f() {\n" + "x = y\n" * (N // 5) + "}\n",
    "a million lines": lambda: "param x = 1\n" * (3 * N),
    "an error a line": lambda: "x y z\n" * (N // 5),
    "commas": lambda: "param x = f(" + "," * N + ")",
    "huge integer": lambda: "param x = " + "9" * 5000,
    "very huge integer": lambda: "param x = " + "9" * 3_000_000,
    "huge exponent": lambda: "param x = 1e999999999999",
    "long fraction": lambda: "param x = 0." + "1" * 1_000_000,
    "huge quantity": lambda: "param x = " + "9" * 5000 + " GB",
    "many points": lambda: "param x = 1" + ".1" * N,
    "only points": lambda: "." * N,
    "fifty megabytes": lambda: "# comment\n" * 5_000_000,
    "fifty megabytes on a line": lambda: "a" * 50_000_000,
    "long name": lambda: "param " + "a" * 3_000_000 + " = 1",
    "long line": lambda: "param x = 1" + " " * 3_000_000 + "+ * 2",
    "long comment": lambda: "#" * 3_000_000,
    "many comments": lambda: "#\n" * 1_500_000,
    "many newlines": lambda: "\n" * 4_000_000,
    "blank lines": lambda: "param x = 1\n" + " \t\n" * 1_000_000,
    "spaces": lambda: " " * 4_000_000,
    "spaces in comments": lambda: ("#" + " " * 50 + "\n") * 60_000,
    "carriage returns": lambda: "param x = 1\r\n\r\nfn f() {\r\n  return x\r\n}\r\n",
    "old line ends": lambda: "param x = 1\rparam y = 2\r",
    "tabs": lambda: "fn f()\t{\n\treturn\tx\t\n}\n",
    "byte order mark": lambda: "\ufeffparam x = 1\n",
    "junk": _junk,
    "junk in a comment": lambda: "# " + _junk(),
    "nul": lambda: "\0" * N,
    "surrogates": lambda: 'param x = \ud800\udfff\udcff\n# \ud800\nparam y = "\udc80"\n',
    "unicode": lambda: "param größe = 8\nparam x = ８\n# 汉字 ok\n" + "é" * N,
    "bidirectional": lambda: "param x = 1 # \u202e hidden\n",
    "open string": lambda: 'param x = "abc\nparam y = "' + "a" * 3_000_000,
    "quotes": lambda: '"' * N,
    "backslashes": lambda: 'param x = "' + "\\" * 3_000_001,
    "escapes": lambda: 'param x = "' + "\\q" * 1000 + '"',
    "semicolons": lambda: "param x = 1;\n" * 10_000,
    "keywords": lambda: "if else fn over in on for param " * 10_000,
    "words": lambda: "device d {\n" + "compute " * (N // 2) + "\n}\n",
    "operators": lambda: "param x = " + "+ * / " * (N // 4),
    "empty": lambda: "",
    "one brace": lambda: "{",
    "ends in a number": lambda: "param x = 1",
    "ends in a word": lambda: "param",
}


def limit(megabytes: int) -> None:
    """Bound this process' memory and time."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))
    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))


def main(names: list[str]) -> None:
    """Parse the named cases; print, for each, the codes found and the seconds taken."""
    from dsl.diagnostics import ParcError
    from dsl.parser import parse
    from dsl.printer import format_source
    from dsl.render import render, to_json
    from dsl.source import Source

    parse("", "warm")
    for name in names:
        text = CASES[name]()
        start = time.process_time()
        codes = ["ok"]
        try:
            parse(text, name)
            format_source(text, name)
        except ParcError as error:
            codes = sorted({d.code for d in error.diagnostics})
            shown = render(error.diagnostics, {name: Source(name, text)})
            shown.encode("utf-8")
            assert len(shown) < 50_000
            to_json(error.diagnostics, {name: Source(name, text)})
        print(f"{name}\t{','.join(codes)}\t{time.process_time() - start:.3f}", flush=True)


if __name__ == "__main__":
    limit(512)
    main(sys.argv[1:] or list(CASES))
