"""Codes E00xx: characters, statements, files."""

from __future__ import annotations

from dsl.codes.code import Code

CODES: tuple[Code, ...] = (
    Code(
        "E0001",
        "something else was expected here",
        "The statement does not go on like this. The message lists what could stand at this place; where a single\n"
        "change is likely to mend it, the help says which.",
        "param layers = \n",
        "param layers = 8\n",
    ),
    Code(
        "E0002",
        "illegal character",
        "This character is no part of the language. Outside comments and strings a file consists of ASCII\n"
        "characters; control characters and those that change the direction of the text are refused everywhere.",
        "param layers = 8;\n",
        "param layers = 8\n",
    ),
    Code(
        "E0003",
        "malformed string",
        'A string stands in double quotes on one line. Inside, \\" \\\\ \\n \\t stand for a quote, a backslash, a new\n'
        "line and a tab; there are no other escapes.",
        'use "blocks.par\n',
        'param path = "blocks.par"\n',
    ),
    Code(
        "E0004",
        "malformed number",
        "A number has digits, perhaps a fraction with digits on both sides of the point, and perhaps an exponent:\n"
        "8, 0.5, 3e-4. It fits into a float, or is an integer of at most 100 digits.",
        "param rate = .5\n",
        "param rate = 0.5\n",
    ),
    Code(
        "E0005",
        "a bracket has no partner",
        "Every ( [ { is closed by ) ] }, and what was opened last is closed first.",
        "param sizes = [1, 2\n",
        "param sizes = [1, 2]\n",
    ),
    Code(
        "E0006",
        "unknown unit",
        "A quantity is a number, at most one space, and a unit: 30 GB/s, 1 us, 768 GiB. Units are case-sensitive:\n"
        "B KB MB GB TB PB, KiB MiB GiB TiB PiB, Kb Mb Gb Tb Pb (bits), ns us ms s min h, FLOP KFLOP MFLOP\n"
        "GFLOP TFLOP PFLOP EFLOP ZFLOP, all amounts also per second (/s), and Hz kHz MHz GHz.",
        "check 3 gb <= 4 GB\n",
        "check 3 GB <= 4 GB\n",
    ),
    Code(
        "E0007",
        "comparisons do not chain",
        "`a < b < c` is not a comparison of three: write `a < b and b < c`.",
        "check 1 < 2 < 3\n",
        "check 1 < 2 and 2 < 3\n",
    ),
    Code(
        "E0008",
        "a clause is given twice",
        "Each clause of a statement (`schedule`, `cuts`, `master`, `loss_scale`, `prefill`) stands at most once.",
        "strategy deep {\n  mesh (pp = 2)\n  pipeline block on pp, cuts [1], cuts [2]\n}\n",
        "strategy deep {\n  mesh (pp = 2)\n  pipeline block on pp, cuts [1]\n}\n",
    ),
    Code(
        "E0009",
        "only dims stand before an arrow",
        "`s -> t` renames a dim, `d -> (h, k)` splits one, `(h, k) -> d` merges two: on both sides stand names.",
        "fn f(x[b, d]) {\n  return rename(x, 2 * d -> e)\n}\n",
        "fn f(x[b, d]) {\n  return rename(x, d -> e)\n}\n",
    ),
    Code(
        "E0010",
        "unknown statement",
        "No statement that may stand here begins with this word.",
        "parameter layers = 8\n",
        "param layers = 8\n",
    ),
    Code(
        "E0011",
        "a body has the wrong shape",
        "A body stands in braces over lines of its own: the opening brace on the line of the head, each statement on\n"
        "its own line, the closing brace on its own line (followed by nothing but `else`).",
        "fn f(x) { return x }\n",
        "fn f(x) {\n  return x\n}\n",
    ),
    Code(
        "E0012",
        "the file is not UTF-8 text",
        "Files are text in UTF-8. The message says at which byte that ends.",
        "param layers = 8  # \udcff\n",
        "param layers = 8  # ÿ\n",
    ),
    Code(
        "E0013",
        "the file cannot be read",
        "There is no such file, it is not an ordinary file (but a folder or a device), or it may not be read.",
        'use "missing.par" (block)\n',
        "use std.layers\n",
    ),
    Code(
        "E0014",
        "the path leaves the project",
        "Files `use` only `.par` files inside the project: relative paths that do not lead out of the project's root,\n"
        "not through symbolic links either. The root is the nearest folder with pyproject.toml, .git or parc.toml, or\n"
        "the folder of the file given to the command.",
        'use "/etc/passwd.par"\n',
        "use std.layers\n",
    ),
    Code(
        "E0015",
        "no such module in the standard library",
        "`use std.NAME` reads a module of the standard library. Files of your own are named by a string:\n"
        '`use "blocks.par"`.',
        "use std.layerz\n",
        "use std.layers\n",
    ),
)
