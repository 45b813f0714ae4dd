#!/usr/bin/env bash
# PuLP's default solver hands back integers cut to eight digits, so an "Optimal" plan can need more than there is.
#
# Expected: maximise an integer x with x <= 123,456,789: the answer is 123,456,789. Integers below 2^53 are exact.
# Happens: PuLP talks to its bundled CBC by files, and CBC writes the solution with eight significant digits.
#   x comes back as 123,456,790, status Optimal: above its own bound, an integer that CBC never computed. A budget of
#   80 GiB (85,899,345,920 bytes) comes back as 85,899,346,000. The objective is recomputed from the cut values, so it
#   confirms them; only LpProblem.valid() says False. Where the eight digits happen to round down (2^40 - 1 becomes
#   1,099,511,600,000) even valid() says True, and the plan is 28 kB short of the optimum.
#   The LP file that writeLP makes has twelve digits: the bound 2^40 - 1 becomes 1,099,511,627,780.
#   PuLP with HiGHS (no files between them) returns every number exactly.
# Why it matters: memory in bytes and costs in FLOPs have 9 to 16 digits. A search for a plan that asks PuLP which layers
#   fit on a device gets an answer that does not fit, and is told that it is optimal. Use units with few digits (MiB), and
#   check a solver's plan against the limits again in integers.
#
# Seen 2026-11-28: pulp 3.3.2 (bundled CBC), highspy 1.16.0, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check pulp==3.3.2 highspy==1.16.0

cat > probe.py <<'PY'
import pulp


def most(limit, solver):
    """Largest integer x with x <= limit, and whether PuLP finds it within the constraints."""
    problem = pulp.LpProblem("memory", pulp.LpMaximize)
    x = pulp.LpVariable("x", 0, None, cat="Integer")
    problem += x
    problem += x <= limit
    problem.solve(pulp.getSolver(solver, msg=0))
    assert pulp.LpStatus[problem.status] == "Optimal"
    assert pulp.value(problem.objective) == x.value()
    return int(x.value()), problem.valid()


expected = {
    12_345_678: (12_345_678, True),
    123_456_789: (123_456_790, False),
    80 * 2**30: (85_899_346_000, False),
    2**40 - 1: (1_099_511_600_000, True),
}
for limit, seen in expected.items():
    cbc, highs = most(limit, "PULP_CBC_CMD"), most(limit, "HiGHS")
    print(f"limit {limit:,}: CBC {cbc[0]:,} (off by {cbc[0] - limit:+,}, valid() {cbc[1]}), HiGHS {highs[0]:,}")
    assert cbc == seen, "what CBC's answer is read back as has changed"
    assert highs == (limit, True)

problem = pulp.LpProblem("file", pulp.LpMaximize)
x = pulp.LpVariable("x", 0, 2**40 - 1, cat="Integer")
problem += x
problem.writeLP("file.lp")
bound = next(line.strip() for line in open("file.lp") if "<= x <=" in line)
print("bound 2^40 - 1 in the LP file:", bound)
assert bound == "0 <= x <= 1.09951162778e+12" and float(bound.split()[-1]) > 2**40 - 1
PY
venv/bin/python probe.py
echo "unchanged: CBC's answers lose all digits after the eighth, and may exceed the limits they were solved under"
