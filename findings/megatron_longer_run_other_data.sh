#!/usr/bin/env bash
# Megatron's GPTDataset: one more training sample at the end changes the very first batch, and the content of every sample.
#
# Expected: the order of samples is a function of seed and data. A run that is planned longer (train_iters, global batch
#   size, evaluation) sees the same samples first and then more of them; a resumed run goes on where it stopped.
# Happens, 20 documents of 50 tokens, sequences of 49, so 20 samples an epoch:
#       10 to 20 requested   one order
#       21 to 35             the same 20 samples come first, in another order (3 of 20 in their place)
#       36 to 40             none of these samples exists any more: documents are shuffled over both epochs together and
#                            other documents meet in a sample
#       41                   again another order of other samples
#   Whether the last epoch is shuffled apart depends on whether less than 80 % of it is needed (35 = 20 + 15: apart,
#   36 = 20 + 16: together). No message.
# Why it matters: number of samples = train_iters x global batch size, plus what evaluation needs. Two plans that differ in
#   the batch size or the length (not only in how they split the work) train on different data from step 1, and a
#   checkpoint resumed with a longer schedule repeats some samples and never sees others. Runs compared for equality must
#   agree on the number of samples first; exports of a plan to Megatron must not round train_iters or the batch.
#
# Seen 2026-11-28: megatron-core 0.16.1, torch 2.13.0, numpy 2.4.6, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check megatron-core==0.16.1 torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from megatron.core.datasets.utils import Split

DOCUMENTS, LENGTH = 20, 50


class Tokens:
    """What a dataset asks of a tokenizer."""

    vocab_size, eod, pad, bos = 3000, 2999, 2998, None
    unique_identifiers, special_tokens_dict = {"class": "Tokens"}, {}


def samples(number):
    """All samples of a dataset of which `number` are requested, as tuples of tokens (100 x document + place)."""
    config = GPTDatasetConfig(
        random_seed=1, sequence_length=LENGTH - 1, split="1,0,0", tokenizer=Tokens(), create_attention_mask=False,
        reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False,
    )
    indices = np.arange(DOCUMENTS, dtype=np.int32)
    dataset = GPTDataset(IndexedDataset("data"), "data", indices, number, Split.train, config)
    return [tuple(dataset[i]["tokens"].tolist()) for i in range(len(dataset))]


builder = IndexedDatasetBuilder("data.bin", dtype=np.int32)
for document in range(DOCUMENTS):
    builder.add_document(torch.arange(LENGTH) + 100 * document, [LENGTH])
builder.finalize("data.idx")

by_number = {number: samples(number) for number in (10, 20, 21, 35, 36, 40, 41)}
for number, found in by_number.items():
    again = len(set(found) & set(by_number[20]))
    print(f"{number} requested, {len(found)} there, first tokens {[s[0] for s in found[:8]]}, in common with 20 requested: {again}")
assert by_number[10] == by_number[20] and by_number[21] == by_number[35] and by_number[36] == by_number[40]
in_place = sum(a == b for a, b in zip(by_number[20], by_number[21]))
assert set(by_number[20]) == set(by_number[21][:20]) and in_place < 10, "a second epoch leaves the first one's order alone now"
assert not set(by_number[35]) & set(by_number[36]), "one more sample no longer changes the content of all"
assert by_number[40][:20] != by_number[41][:20]
PY
venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: the number of requested samples decides their order and content from the first one on"
