#!/usr/bin/env bash
# bitsandbytes 0.50.2 with torch 2.13.0, on a CPU that computes bfloat16 (avx512_bf16), Linux.
#
# Guess: asking a 4-bit layer in evaluation mode, without gradients, leaves the layer as it was, so that a gradient taken
#   afterwards is the same as before.
# Seen: the first such call repacks the layer's weights in place for a kernel that has no backward pass, and they stay so in
#   training mode. No gradient passes through the layer after that. A lone layer gives its input no gradient at all; in
#   a network with residual connections, as every decoder has, the other path still gives one: wrong, with a warning of torch and
#   no error. A layer that was never asked in evaluation mode is right every time.
# What to do: set support_avx512bf16_for_cpu to False on every Linear4bit of a model that is both asked and trained through
#   on a CPU, before its first call.
#
# Prints the relative difference of the gradient of x in x + layer(x) before and after, and ends with 1 where that has changed. On a CPU
#   without avx512_bf16 the repacking does not happen; the script then says so and ends with 0.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "bitsandbytes-evaluation-then-gradient.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
if ! grep -q avx512_bf16 /proc/cpuinfo; then
  echo "this CPU has no avx512_bf16: nothing to see here"
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 bitsandbytes==0.50.2 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

import bitsandbytes as bnb
import torch


def difference(repack):
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(256, 256, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16)
    layer = layer.to("cpu")
    if not repack:
        layer.support_avx512bf16_for_cpu = False
    asked = torch.randn(8, 256, dtype=torch.bfloat16)

    def gradient():
        given = asked.clone().requires_grad_()
        layer.train()
        ((given + layer(given)).float() ** 2).sum().backward()
        return given.grad.float()

    before = gradient()
    layer.eval()
    with torch.no_grad():
        layer(asked)
    after = gradient()
    return ((after - before).norm() / before.norm()).item()


as_it_is, held = difference(repack=True), difference(repack=False)
print(f"as it is: {as_it_is:.2f}")
print(f"support_avx512bf16_for_cpu False: {held:.2f}")
sys.exit(0 if as_it_is > 0.1 and held < 0.01 else 1)
PYTHON
