#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.23.0, torch 2.13.0, on the CPU.
#
# Guess: target_modules that name the shared experts of a mixture of experts (GLM-4-MoE: linear modules
#   mlp.shared_experts.gate_proj, up_proj, down_proj) put LoRA on these modules.
# Seen: PEFT rewrites the configuration without a word. target_modules is empty afterwards, target_parameters names
#   gate_up_proj and down_proj, and LoRA sits on the routed experts; the shared experts get none. The same happens to the
#   dense first layers, whose modules end in the same names. A full path as a name is rewritten as well.
# What to do: look at peft_config after get_peft_model, or leave these names out for such models.
#
# Prints the configuration that comes out, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "peft-shared-expert-names.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

config = Glm4MoeConfig(
    vocab_size=99, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=32, n_routed_experts=4, num_experts_per_tok=2,
    first_k_dense_replace=1, n_group=1, topk_group=1,
)
model = Glm4MoeForCausalLM(config)
names = [f"shared_experts.{part}_proj" for part in ("gate", "up", "down")]
there = [path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "shared" in path]
print("linear modules asked for:", there)
tuned = get_peft_model(model, LoraConfig(r=4, target_modules=names))
made = tuned.peft_config["default"]
adapted = sorted({name.split(".lora_")[0] for name, _ in tuned.named_parameters() if ".lora_" in name})
print("target_modules:", made.target_modules, "target_parameters:", made.target_parameters)
print("LoRA sits on:", adapted)
as_seen = not made.target_modules and set(made.target_parameters) == {"gate_up_proj", "down_proj"}
sys.exit(0 if as_seen and all(".experts" in path for path in adapted) else 1)
PYTHON
