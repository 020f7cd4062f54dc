#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.23.0, torch 2.13.0, datasets 5.2.0, on the CPU.
#
# Guess: SFTTrainer with its default settings trains a Granite mixture of experts, whose configuration says
#   output_router_logits False.
# Seen: the first step ends with AttributeError: 'GraniteMoeConfig' object has no attribute 'num_experts'. TRL switches the
#   load-balancing loss on because the configuration has router_aux_loss_coef 0.001, and reads num_experts, which this
#   configuration calls num_local_experts. The same holds for PhiMoE. With router_aux_loss_coef=0.0 it trains.
# What to do: pass router_aux_loss_coef=0.0, which is right anyway where the routers are frozen.
#
# Prints what each setting comes to, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "trl-granite-moe-sft.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 trl==1.16.0 datasets==5.2.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

words = {word: number for number, word in enumerate(["<pad>", "</s>", *(f"w{n}" for n in range(97))])}
backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
rows = Dataset.from_list([{"prompt": "w1 w2", "completion": " w3 w4"}] * 4)


def outcome(**settings):
    model = GraniteMoeForCausalLM(
        GraniteMoeConfig(
            vocab_size=99, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0,
        )
    )
    arguments = SFTConfig(
        "out", max_steps=1, per_device_train_batch_size=2, report_to="none", use_cpu=True, save_strategy="no",
        disable_tqdm=True, **settings,
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    try:
        trainer.train()
    except AttributeError as error:
        return str(error)
    return "trains"


default, without = outcome(), outcome(router_aux_loss_coef=0.0)
print("default settings:", default)
print("router_aux_loss_coef=0.0:", without)
sys.exit(0 if "num_experts" in default and without == "trains" else 1)
PYTHON
