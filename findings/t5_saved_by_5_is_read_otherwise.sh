#!/usr/bin/env bash
# T5 1.1 that transformers 5 has saved gives logits sqrt(d_model) times smaller in transformers 4, without a word.
#
# Expected: `tie_word_embeddings: false` (T5 1.1, Flan-T5) says that the head has a matrix of its own; a folder that
#   `save_pretrained` has written means the same to `from_pretrained` of another version, or is refused.
# Happens: transformers 5 ties the head of every T5 that it makes, whatever the configuration says, and writes
#   `tie_word_embeddings: true` with a new key, `scale_decoder_outputs: false`, which keeps that what goes into the head is not
#   scaled. Transformers 4 does not know the key, and scales by 1/sqrt(d_model) what is tied: largest logits of one random
#   checkpoint (d_model = 64) are 48.7 in 5.24.0 and 6.08 in 4.57.3. The other way round (saved by 4) both agree.
#   A new model also has fewer parameters in 5: 176,256 where 4 has 179,456, for the same configuration.
# Why it matters: argmax stays, so greedy decoding looks right; losses, temperatures and beam scores do not. Whoever reads
#   configurations of T5 (or counts parameters by them) must take `scale_decoder_outputs` before `tie_word_embeddings`.
#
# Seen 2026-11-29: transformers 5.24.0 and 4.57.3, torch 2.13.0, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy transformers==5.24.0
env/bin/pip install --quiet --no-compile --disable-pip-version-check --target old transformers==4.57.3 2> /dev/null

cat > t5.py <<'PY'
"""Write a random T5 1.1 to a folder, or read it; print the version, whether the head is the table, sizes, logits."""
import sys

import torch
import transformers
from transformers import T5Config, T5ForConditionalGeneration

sizes = dict(d_model=64, d_kv=16, d_ff=96, num_heads=4, num_layers=2, vocab_size=50)
if sys.argv[1] == "write":
    torch.manual_seed(0)
    config = T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(sys.argv[2])
else:
    model = T5ForConditionalGeneration.from_pretrained(sys.argv[2]).eval()
with torch.no_grad():
    logits = model(input_ids=torch.arange(8)[None], decoder_input_ids=torch.tensor([[3, 4, 5, 6]])).logits
tied = model.lm_head.weight is model.shared.weight
count = sum(p.numel() for p in model.parameters())
print(transformers.__version__, sys.argv[1], sys.argv[2], tied, count, f"{logits.abs().max().item():.4f}")
PY

cat > check.py <<'PY'
import sys

rows = [line.split() for line in sys.stdin]
for row in rows:
    print(*row)
found = {(v.split(".")[0], what, folder): (tied == "True", int(n), float(x)) for v, what, folder, tied, n, x in rows}
new, old = found["5", "write", "by5"], found["4", "write", "by4"]
assert new[0] and not old[0] and new[1] == old[1] - 50 * 64, "new models of 5 have a head of their own now"
assert abs(found["4", "read", "by5"][2] * 8 / new[2] - 1) < 1e-3, "4 reads what 5 has saved as it is meant now"
assert abs(found["5", "read", "by4"][2] / old[2] - 1) < 1e-3, "5 reads what 4 has saved otherwise now"
PY
export TQDM_DISABLE=1 HF_HUB_OFFLINE=1
{
  env/bin/python -W ignore t5.py write by5
  PYTHONPATH=old env/bin/python -W ignore t5.py read by5
  PYTHONPATH=old env/bin/python -W ignore t5.py write by4
  env/bin/python -W ignore t5.py read by4
} 2> stderr.txt > rows.txt || { cat stderr.txt; exit 1; }
python3 check.py < rows.txt
echo "unchanged: T5 1.1 as transformers 5 saves it has logits 8 = sqrt(64) times smaller in transformers 4"
