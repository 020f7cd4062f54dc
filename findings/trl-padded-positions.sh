#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.23.0, torch 2.13.0, datasets 5.2.0, on the CPU.
#
# Guess: GRPOTrainer's log-probabilities of a completion do not depend on how far its prompt was padded on the left to match the
#   other prompts of the batch.
# Seen: for GPT-2, which adds a learned embedding of each position, they do. The trainer passes an attention mask and no
#   position_ids, and GPT-2 then numbers positions from the first column, padding included: five tokens of padding move the
#   log-probabilities of a tiny random model by about 0.2. A Llama of the same size moves by rounding alone, since rotary
#   embeddings depend on distances. generate() does pass position_ids, so the model that samples and the model that learns see
#   different positions.
# What to do: for models that take position_ids and embed them by number (GPT-2, GPTBigCode and their like), pass positions
#   counted from the attention mask, or keep prompts of one length together.
#
# Prints the largest difference for both models, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "trl-padded-positions.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
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
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

words = {word: number for number, word in enumerate(["<pad>", "</s>", *(f"w{n}" for n in range(97))])}
backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}


def difference(model):
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig("out", per_device_train_batch_size=2, num_generations=2, report_to="none", use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list([{"prompt": "w1 w2"}] * 4),
        processing_class=tokenizer,
    )
    trainer.model.eval()
    row = torch.tensor([[5, 6, 7, 8, 9, 10]])
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), row], dim=1)

    def log_probabilities(ids):
        with torch.no_grad():
            return trainer._get_per_token_logps_and_entropies(trainer.model, ids, (ids != 0).long(), 3)[0]

    return (log_probabilities(row) - log_probabilities(padded)).abs().max().item()


torch.manual_seed(0)
gpt2 = difference(GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=2, n_positions=64, **ends)))
llama = difference(
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **ends
        )
    )
)
print(f"GPT-2, 5 tokens of padding: {gpt2:.1e}")
print(f"Llama, 5 tokens of padding: {llama:.1e}")
sys.exit(0 if gpt2 > 0.01 and llama < 1e-5 else 1)
PYTHON
