#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, on the CPU.
#
# Guess: a prompt's cache can be repeated along the batch with Cache.batch_repeat_interleave, so that several completions
#   share one reading of the prompt, and a cache that cannot do it says so.
# Seen: for Qwen3-Next it raises AttributeError, because the layers of linear attention have no such method. For Falcon-H1,
#   whose layers hold both kinds of state, it returns without a word and repeats the keys and values only; recurrent and
#   convolution states keep a batch of one, and the next forward pass fails on sizes.
# What to do: repeat a cache only where none of its layers has conv_states.
#
# Prints the sizes before and after, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "transformers-hybrid-cache-repeat.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from transformers import FalconH1Config, FalconH1ForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM

shared = dict(
    vocab_size=99, hidden_size=64, intermediate_size=96, num_attention_heads=2, num_key_value_heads=1, head_dim=32
)
both = FalconH1Config(
    **shared, num_hidden_layers=2, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1
)
mixed = Qwen3NextConfig(
    **shared, num_hidden_layers=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
    shared_expert_intermediate_size=32, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=16,
    linear_value_head_dim=16,
)
ids = torch.arange(3, 13)[None]


def read(model):
    with torch.no_grad():
        return model.eval()(input_ids=ids, use_cache=True).past_key_values


cache = read(FalconH1ForCausalLM(both))
cache.batch_repeat_interleave(3)
layer = cache.layers[0]
keys, states = layer.keys.shape[0], {number: state.shape[0] for number, state in layer.recurrent_states.items()}
print("Falcon-H1 after repeating three times: batch of the keys", keys, "batch of the recurrent states", states)
try:
    read(Qwen3NextForCausalLM(mixed)).batch_repeat_interleave(3)
    said = "no error"
except AttributeError as error:
    said = str(error)
print("Qwen3-Next:", said)
sys.exit(0 if keys == 3 and set(states.values()) == {1} and "batch_repeat_interleave" in said else 1)
PYTHON
