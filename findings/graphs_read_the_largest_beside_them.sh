#!/usr/bin/env bash
# PyTorch Geometric: five of its aggregations give a graph, or a node, other values when something larger is in the batch.
#
# Expected: graphs in a batch are not joined by any edge, so that each is given what it is given alone: a loss does not depend on how
#   samples are put together, and micro-batches add up. All other aggregations of the library do so (18 are tried).
# Happens: to be run at once, groups are padded with zeros to the size of the largest group in the batch, and five read the padding:
#       LSTM, GRU     the last state is taken after the padding, not after the group's own last element
#       LCM           zeros are paired with elements; as many levels of the tree as the largest group has
#       PatchTransformer  patches of padding are attended to, and averaged; and of the largest group up to patch_size - 2 elements
#                     are left out: beside a larger group they are not
#       Equilibrium   no padding, but the penalty is a mean over the groups of a batch, the rest a sum
#   A group of 4 alone, and beside one of 9 (vectors of 8, fresh weights): off by 0.3 to 3.5 of its norm. In `SAGEConv(aggr="lstm")`
#   a node's output changes when an unconnected node of more neighbours is in the graph. Only the order of elements is warned of.
# Why it matters: predictions depend on what is served with them, neighbours that are sampled in mini-batches give other embeddings
#   than the whole graph, and training on n devices is another training than on one. Give the groups' own lengths to recurrent layers,
#   and test a batch of two sizes against each alone.
#
# Seen 2026-11-30: torch_geometric 2.8.1, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torch_geometric==2.8.1 numpy==2.4.6

cat > probe.py <<'PY'
import torch
from torch_geometric.nn import MLP, SAGEConv, aggr

WIDTH, SMALL, LARGE = 8, 4, 9
torch.manual_seed(0)
KINDS = {
    "MultiAggregation": lambda: aggr.MultiAggregation(["mean", "std"]),
    "SumAggregation": aggr.SumAggregation,
    "MeanAggregation": aggr.MeanAggregation,
    "MaxAggregation": aggr.MaxAggregation,
    "MinAggregation": aggr.MinAggregation,
    "MulAggregation": aggr.MulAggregation,
    "VarAggregation": aggr.VarAggregation,
    "StdAggregation": aggr.StdAggregation,
    "SoftmaxAggregation": aggr.SoftmaxAggregation,
    "PowerMeanAggregation": aggr.PowerMeanAggregation,
    "MedianAggregation": aggr.MedianAggregation,
    "VariancePreservingAggregation": aggr.VariancePreservingAggregation,
    "Set2Set": lambda: aggr.Set2Set(WIDTH, 2),
    "SortAggregation": lambda: aggr.SortAggregation(3),
    "GraphMultisetTransformer": lambda: aggr.GraphMultisetTransformer(WIDTH, 2),
    "SetTransformerAggregation": lambda: aggr.SetTransformerAggregation(WIDTH),
    "AttentionalAggregation": lambda: aggr.AttentionalAggregation(MLP([WIDTH, 1])),
    "DeepSetsAggregation": lambda: aggr.DeepSetsAggregation(MLP([WIDTH, WIDTH]), MLP([WIDTH, WIDTH])),
    "LSTMAggregation": lambda: aggr.LSTMAggregation(WIDTH, WIDTH),
    "GRUAggregation": lambda: aggr.GRUAggregation(WIDTH, WIDTH),
    "LCMAggregation": lambda: aggr.LCMAggregation(WIDTH, WIDTH),
    "PatchTransformerAggregation": lambda: aggr.PatchTransformerAggregation(WIDTH, WIDTH, 4, WIDTH),
    "EquilibriumAggregation": lambda: aggr.EquilibriumAggregation(WIDTH, WIDTH, [4, 4]),
}
READERS = {"LSTMAggregation", "GRUAggregation", "LCMAggregation", "PatchTransformerAggregation", "EquilibriumAggregation"}


def apart(found, want):
    return ((found - want).norm() / want.norm()).item()


small, large = torch.randn(SMALL, WIDTH), torch.randn(LARGE, WIDTH)
alone, of_both = torch.zeros(SMALL, dtype=torch.long), torch.tensor([0] * SMALL + [1] * LARGE)
for name, make in KINDS.items():
    pool = make().eval()
    want = pool(small, alone)[0]
    assert apart(pool(small, alone)[0], want) == 0, "it is random"
    off = apart(pool(torch.cat([small, large]), of_both)[0], want)
    print(f"{name}: a graph of {SMALL} beside one of {LARGE} is off by {off:.2g}", flush=True)
    assert off > 0.05 if name in READERS else off < 1e-5, f"{name} treats batches otherwise now"

# elements 8 of 9 and 9 of 9 in a group that is the largest of its batch, and in one that is not
pool = KINDS["PatchTransformerAggregation"]().eval()
other, widest = large.clone(), torch.randn(12, WIDTH)
other[-1] += 1
index = torch.zeros(LARGE, dtype=torch.long)
among = torch.tensor([0] * LARGE + [1] * 12)
left_out = apart(pool(other, index)[0], pool(large, index)[0])
read = apart(pool(torch.cat([other, widest]), among)[0], pool(torch.cat([large, widest]), among)[0])
print(f"PatchTransformer, another ninth element: {left_out:.2g} alone, {read:.2g} beside a group of 12")
assert left_out == 0 < read

# node 0 has one neighbour; nodes 2 to 7 are a star that it has no path to
nodes = torch.randn(8, WIDTH)
own = torch.tensor([[1], [0]])
star = torch.tensor([[1, 3, 4, 5, 6, 7], [0, 2, 2, 2, 2, 2]])
for kind in ("mean", "lstm"):
    layer = SAGEConv(WIDTH, WIDTH, aggr=kind).eval()
    off = apart(layer(nodes, star)[0], layer(nodes, own)[0])
    print(f"SAGEConv with {kind}: a node is off by {off:.2g} when an unconnected star is in the graph")
    assert (off > 0.05) == (kind == "lstm"), "SAGEConv reads otherwise now"
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py
echo "unchanged: five aggregations read what is beside a graph"
