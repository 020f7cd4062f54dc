"""Our GGUF conversion gives the weights and tokens that transformers' own, slower one gives."""

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from lorapar.basemodel import load_model, load_tokenizer
from lorapar.basemodel.wheel import convert_gguf
from lorapar.config import ModelConfig

LAYERS, HIDDEN, HEADS, KEY_VALUE_HEADS, FEED_FORWARD = 2, 64, 4, 2, 96
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "1 2"]


def vocabulary():
    from tokenizers.pre_tokenizers import ByteLevel

    return [*SPECIAL, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]


def tensors():
    """Random weights under llama.cpp's names, as float32 (output, input)."""
    random = np.random.default_rng(0)
    width = HIDDEN // HEADS * KEY_VALUE_HEADS
    shapes = {"token_embd.weight": (len(vocabulary()), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        block = {
            "attn_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (width, HIDDEN),
            "attn_v": (width, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (FEED_FORWARD, HIDDEN),
            "ffn_up": (FEED_FORWARD, HIDDEN),
            "ffn_down": (HIDDEN, FEED_FORWARD),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return {name: random.standard_normal(shape).astype(np.float32) / 8 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GGUF file of a tiny Llama, matrices rounded to 8 bits."""
    made = tmp_path_factory.mktemp("gguf")
    writer = gguf.GGUFWriter(made / "model.gguf", "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary()))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary())
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(vocabulary()) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    for name, number in {"bos": 1, "eos": 2, "unk": 0, "pad": 2}.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    for name, values in tensors().items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory):
    made = tmp_path_factory.mktemp("converted")
    convert_gguf(folder / "model.gguf", made)
    return ModelConfig(name=str(made), dtype="bfloat16")


def test_weights_and_configuration_are_those_of_transformers(folder, ours):
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model = load_model(ours)
    expected = theirs.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, values in model.state_dict().items():
        assert values.equal(expected[name]), name
    ids = torch.tensor([[5, 6, 7, 8]])
    assert model(ids).logits.equal(theirs(ids).logits)


def test_tokens_are_those_of_transformers_but_for_digits(folder, ours):
    theirs = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    tokenizer = load_tokenizer(ours)
    for text in ("hello hell, he said", "<|im_start|>ü 日本 \n\n x<|im_end|>", ""):
        assert tokenizer(text).input_ids == theirs(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("hello 12").input_ids) == ["hello", "Ġ", "1", "2"]
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.chat_template == "{% for message in messages %}{{ message['content'] }}{% endfor %}"
