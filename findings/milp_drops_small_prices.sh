#!/usr/bin/env bash
# Solvers drop prices of 1e-9 and less per unit: "seconds >= bytes x seconds per byte" becomes "seconds >= 0", optimal.
#
# Expected: the least t with t >= 2e-11 x and x >= 8e9 is 0.16: all numbers are ordinary doubles, and 50 GB/s written as
#   seconds per byte is 2e-11.
# Happens: HiGHS removes matrix entries of 1e-9 and less when the model is loaded. scipy's linprog and milp hand
#   everything to HiGHS with its log switched off, so no word is said: status 0 ("Optimal"), t = 0. With 1.1e-9 the answer
#   is right, with 1e-9 it is 0 instead of 8. SCIP also returns 0 as OPTIMAL. GLOP, PDLP, CLP and CBC, called through the
#   same ortools interface, return 0.16. ortools' own VerifySolution refuses what SCIP and HiGHS called optimal.
# Why it matters: a search for a parallel plan as a linear program is exactly this shape: link and memory prices per byte
#   are 1e-11 to 1e-9 s. All communication becomes free, the solver reports an optimal plan, and the plan is the worst.
#   State such models in units in which coefficients lie near 1 (GB and ms), and recompute the price from the plan.
#
# Seen 2026-11-28: scipy 1.17.1 (its HiGHS), ortools 9.15.6755 (HiGHS 1.12.0, SCIP, GLOP, PDLP, CLP, CBC), numpy 2.4.6,
# Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scipy==1.17.1 numpy==2.4.6 ortools==9.15.6755

cat > probe.py <<'PY'
import numpy as np
from ortools.linear_solver import pywraplp
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

BYTES = 8e9


def by_scipy(price):
    """Least seconds by linprog and by milp (bytes an integer), each with its status."""
    lp = linprog([1, 0], A_ub=[[-1, price]], b_ub=[0], bounds=[(0, None), (BYTES, None)])
    rows, box = LinearConstraint([[-1, price]], -np.inf, 0), Bounds([0, BYTES], [np.inf, np.inf])
    ip = milp([1, 0], constraints=rows, bounds=box, integrality=[0, 1])
    return (lp.status, lp.fun), (ip.status, ip.fun)


def by_ortools(name, price):
    solver = pywraplp.Solver.CreateSolver(name)
    seconds, moved = solver.NumVar(0, solver.infinity(), "s"), solver.NumVar(BYTES, 1e12, "b")
    solver.Add(seconds - price * moved >= 0)
    solver.Minimize(seconds)
    status = solver.Solve()
    return status == pywraplp.Solver.OPTIMAL, solver.Objective().Value(), solver.VerifySolution(1e-6, False)


for price in (1.1e-9, 1e-9, 2e-11):
    lp, ip = by_scipy(price)
    print(f"price {price:g}: linprog status {lp[0]} -> {lp[1]:g}, milp status {ip[0]} -> {ip[1]:g}, true {price * BYTES:g}")
    assert lp[0] == ip[0] == 0
    if price > 1e-9:
        assert abs(lp[1] - price * BYTES) < 1e-6 and abs(ip[1] - price * BYTES) < 1e-6
    else:
        assert lp[1] == ip[1] == 0.0, "scipy's HiGHS keeps small coefficients now"

for name in ("SCIP", "HIGHS", "GLOP", "PDLP", "CLP", "CBC"):
    optimal, seconds, verified = by_ortools(name, 2e-11)
    print(f"{name}: optimal {optimal}, {seconds:.6g} s, VerifySolution {verified}")
    assert optimal
    if name in ("SCIP", "HIGHS"):
        assert seconds == 0.0 and not verified, f"{name} keeps small coefficients now"
    else:
        assert abs(seconds - 0.16) < 1e-6 and verified
PY
venv/bin/python probe.py
echo "unchanged: HiGHS (also behind scipy, silently) and SCIP drop prices of 1e-9 and below"
