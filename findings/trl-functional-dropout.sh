#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.23.0, torch 2.13.0, datasets 5.2.0, on the CPU.
#
# Guess: GRPOConfig(disable_dropout=True) switches dropout off, so that two passes over the same tokens give the same
#   log-probabilities and the ratio of the first step is 1.
# Seen: for OPT with its usual dropout of 0.1 two passes in training mode differ by several hundredths. TRL sets p=0 in modules
#   of class torch.nn.Dropout; OPT keeps the rate as a number on its layers and calls torch.nn.functional.dropout, which nothing
#   switches off. GPT-2, which has modules, gives the same values twice.
# What to do: set the rates in the model's configuration to 0 (dropout, attention_dropout, hidden_dropout and so on) before the
#   model is made.
#
# Prints the largest difference of two passes for both models, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "trl-functional-dropout.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 trl==1.16.0 datasets==5.2.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

words = {word: number for number, word in enumerate(["<pad>", "</s>", *(f"w{n}" for n in range(97))])}
backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}


def difference(model):
    arguments = GRPOConfig(
        "out", per_device_train_batch_size=2, num_generations=2, report_to="none", use_cpu=True, bf16=False,
        disable_dropout=True,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "w1 w2"}] * 4),
        processing_class=tokenizer,
    )
    trainer.model.train()
    row = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        first, second = (
            trainer._get_per_token_logps_and_entropies(trainer.model, row, torch.ones_like(row), 3)[0] for _ in range(2)
        )
    return (first - second).abs().max().item()


torch.manual_seed(0)
opt = difference(
    OPTForCausalLM(
        OPTConfig(
            vocab_size=99, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, dropout=0.1, **ends,
        )
    )
)
gpt2 = difference(GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=2, n_positions=64, **ends)))
print(f"OPT, the same row twice: {opt:.1e}")
print(f"GPT-2, the same row twice: {gpt2:.1e}")
sys.exit(0 if opt > 0.001 and gpt2 == 0 else 1)
PYTHON
