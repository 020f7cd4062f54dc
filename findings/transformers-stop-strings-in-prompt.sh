#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0, tokenizers as it asks for, on the CPU.
#
# Guess: generate(stop_strings="##") ends once the new tokens hold "##", whatever the prompt ends with, as `stop` of vLLM does.
# Seen: the criterion looks at the tail of the whole row. After a prompt that ends with "#" a single new "#" ends generation, after
#   one that ends with another character it takes two. A "##" that stands in the prompt alone ends nothing.
# What to do: decode only what was generated and look there (a StoppingCriteria of your own that knows the prompt's length), or
#   make sure that no prompt ends with the beginning of a stop string, headings and code fences included.
#
# Prints how many tokens are generated after both prompts, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "transformers-stop-strings-in-prompt.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LogitsProcessor, PreTrainedTokenizerFast

letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
backend = Tokenizer(models.BPE(letters, []))
backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=256, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=None, eos_token_id=None)
)


class Writes(LogitsProcessor):
    """Lets the model write one character after the other."""

    def __init__(self, text, start):
        self.text, self.start = text, start

    def __call__(self, input_ids, scores):
        token = letters[self.text[input_ids.shape[1] - self.start]]
        forced = torch.full_like(scores, -torch.inf)
        forced[:, token] = 0.0
        return forced


def new_tokens(prompt, text="##########"):
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    made = model.generate(
        ids, max_new_tokens=8, do_sample=False, stop_strings="##", tokenizer=tokenizer, pad_token_id=0,
        logits_processor=[Writes(text, ids.shape[1])],
    )
    return made.shape[1] - ids.shape[1]


plain, ends_so, holds_it = new_tokens("a b"), new_tokens("a #"), new_tokens("a ##", "xxxxxxxxxx")
print(f"after a prompt without '#': {plain} tokens; after one that ends with '#': {ends_so}; after one with '##': {holds_it}")
sys.exit(0 if (plain, ends_so, holds_it) == (2, 1, 8) else 1)
PYTHON
