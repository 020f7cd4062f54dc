#!/usr/bin/env bash
# transformers 5.23.0 with bitsandbytes 0.50.2, accelerate 1.15.0, safetensors 0.8.0 and torch 2.13.0, on a CPU, Linux.
#
# Guess: a model loaded with load_in_8bit or load_in_4bit holds its layers' few bits, and the embedding; the file of the full
#   weights is read and closed.
# Seen: on a CPU the embedding and the norms are views of the mapped file, which therefore stays mapped as long as the model
#   lives, with every page that was read to quantise the layers. The resident memory holds the full weights and the quantised ones.
#   (Output: file 172 MB; resident of it 168 MB after an ordinary load in 8 bits, 0 MB where each weight is read with pread.)
# What to do: let safetensors read with backend="pread" while such a model is loaded, or copy the parameters that are left whole.
#
# Prints how much of the file is resident after either load, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "transformers-quantised-load-keeps-the-file.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 bitsandbytes==0.50.2 accelerate==1.15.0 \
  safetensors==0.8.0 numpy==2.4.6
cd "$folder"
cat > load.py <<'PYTHON'
import re
import sys
from functools import partial
from pathlib import Path

import torch
import transformers.modeling_utils as loading
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

file = Path("model/model.safetensors")
if not file.exists():
    sizes = {"vocab_size": 1000, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 5}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=8)).to(torch.bfloat16).save_pretrained("model")
plain = loading.safe_open
if sys.argv[1] == "pread":
    loading.safe_open = lambda *given, **named: plain(*given, **{**named, "backend": "pread"})
model = LlamaForCausalLM.from_pretrained(
    "model", dtype=torch.bfloat16, device_map="cpu", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
)
mapped = Path("/proc/self/smaps").read_text()
areas = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", mapped)
resident = sum(int(re.search(r"Rss:\s+(\d+)", area)[1]) for area in areas if str(file.resolve()) in area) * 1024
print(round(file.stat().st_size / 1e6), round(resident / 1e6))
PYTHON
size=$(venv/bin/python load.py mmap 2>/dev/null | tail -n 1)
other=$(venv/bin/python load.py pread 2>/dev/null | tail -n 1)
echo "file ${size% *} MB; resident of it ${size#* } MB after an ordinary load in 8 bits, ${other#* } MB where each weight is read with pread"
[ "${size#* }" -gt $((${size% *} / 2)) ] && [ "${other#* }" -eq 0 ]
