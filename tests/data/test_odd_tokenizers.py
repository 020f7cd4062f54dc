"""Tokenizers of many kinds: what is learned is the answer, behind the very prompt that is asked."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lorapar.basemodel import answer_end, load_tokenizer
from lorapar.config import ModelConfig, PromptConfig
from lorapar.data.rendering import RowCheck
from lorapar.prompts import IGNORED, chat_rows, encode_rows, prompt_ids, prompt_messages, training_text
from lorapar.records import Example, Turn
from lorapar.registry.chat_settings import ChatSettings

SPECIAL = ["<s>", "</s>", "<unk>", "<pad>"]
CHAT = ["<|im_start|>", "<|im_end|>"]
NAMED = dict(zip(("bos_token", "eos_token", "unk_token", "pad_token"), SPECIAL, strict=True))
TEXTS = [
    *["Question: What? Answer: 42 plants <reasoning>two and two</reasoning><answer>4</answer>"] * 20,
    *["user assistant system: Ada has 2 pens and buys 3 more.", "[INST] [/INST] <<SYS>> <</SYS>>\n"] * 20,
    *map(chr, range(32, 127)),
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "marked": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "text": "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    "inst": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "unasked": "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>\n{% endfor %}\n",
    "none": None,
}


def byte_level(special=(*SPECIAL, *CHAT), normalizer=None):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=500, special_tokens=[*special], initial_alphabet=alphabet)
    )
    if normalizer is not None:
        made.normalizer = normalizer
    return made


def sentence_piece(fallback):
    """Unigram as SentencePiece has it, with bytes for what it does not know, or without."""
    special = [*SPECIAL, *CHAT, *(BYTES if fallback else [])]
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    size = 300 + len(special)
    made.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>"))
    return with_bytes(made) if fallback else made


def legacy_llama():
    """BPE that writes a blank before every text, and behind each special token."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *CHAT, *BYTES]))
    return with_bytes(made)


def with_bytes(tokenizer):
    state = json.loads(tokenizer.to_str())
    state["model"]["byte_fallback"] = True
    state["added_tokens"] = [one for one in state["added_tokens"] if one["content"] not in BYTES]
    made = Tokenizer.from_str(json.dumps(state))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return made


def word_piece():
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=[*SPECIAL, *CHAT]))
    return made


def adding_eos():
    """One that writes <s> and </s> around every text that it is handed."""
    made = byte_level()
    ends = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair=None, special_tokens=ends)
    return made


def swallowing():
    """One whose special tokens take the white space around them."""
    made = byte_level(SPECIAL)
    made.add_special_tokens([AddedToken(one, lstrip=True, rstrip=True) for one in CHAT])
    return made


KINDS = {
    "byte-level": byte_level,
    "sentence-piece": lambda: sentence_piece(False),
    "sentence-piece-bytes": lambda: sentence_piece(True),
    "legacy-llama": legacy_llama,
    "adds-eos": adding_eos,
    "strips": lambda: byte_level(normalizer=normalizers.Strip()),
    "swallows-blanks": swallowing,
    "end-is-text": lambda: byte_level(SPECIAL),
}
ROWS = [
    Example(id="plain", question="What?", answer="42"),
    Example(id="tagged", question="What?", answer="<reasoning>two and two</reasoning><answer>4</answer>"),
    Example(id="lines", question="Ada has?", answer="has 2 pens\n\n    and  buys"),
    Example(
        id="turns",
        question="And?",
        answer="7",
        history=(Turn(role="user", content="What?"), Turn(role="assistant", content="2")),
    ),
]
PROMPTS = PromptConfig()


def loaded(folder, tokenizer, template, **named):
    """A tokenizer as runs load it, of a model folder."""
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    made.chat_template = TEMPLATES[template]
    made.save_pretrained(folder)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": len(made)}
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": made.eos_token_id}))
    save_file({"none": np.zeros(1)}, folder / "model.safetensors")
    model = ModelConfig(name=str(folder))
    return load_tokenizer(model), model


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_learned_behind_the_very_prompt_that_is_asked(tmp_path, kind, template):
    tokenizer, _ = loaded(tmp_path, KINDS[kind](), template, **NAMED)
    end = answer_end(tokenizer)
    for example in ROWS:
        for system in ("system1", "system2"):
            (row,) = encode_rows(tokenizer, [(example, system)], PROMPTS, 10_000)
            asked = prompt_ids(tokenizer, prompt_messages(example, system, PROMPTS))
            learned = [label for label in row["labels"] if label != IGNORED]
            assert row["input_ids"] == asked + learned
            read = tokenizer.decode(learned, skip_special_tokens=True)
            assert end.cut(read).strip() == example.answer  # as rollouts and evaluation read it
            text = training_text(tokenizer, chat_rows([(example, system)], PROMPTS)[0], end)
            spaceless = ["".join(one.split()) for one in (tokenizer.decode(learned), text.learned)]
            assert spaceless[0] == spaceless[1]
            assert set(end.token_ids) & set(learned), "nothing that is learned ends the answer"


@pytest.mark.parametrize(
    ("template", "note"),
    [("chatml", r"end before '<|im_end|>' too"), ("none", "no token ends an answer")],
)
def test_a_tokenizer_without_any_special_token_says_what_ends_an_answer_if_anything(tmp_path, template, note):
    tokenizer, model = loaded(tmp_path, byte_level([]), template)
    check = RowCheck(tokenizer, model, PROMPTS)
    check.see(ROWS)
    assert [one for one in check.notes() if note in one]
    assert bool(answer_end(tokenizer).strings) is (template == "chatml")


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_without_a_generation_prompt_gets_the_one_it_means_and_plan_says_so(tmp_path, template):
    tokenizer, model = loaded(tmp_path, byte_level(), template, **NAMED)
    check = RowCheck(tokenizer, model, PROMPTS)
    check.see(ROWS[:1])
    said = [note for note in check.notes() if "has no generation prompt: what it writes before an answer" in note]
    assert len(said) == (template == "unasked")
    asked = tokenizer.decode(prompt_ids(tokenizer, prompt_messages(ROWS[0], "system1", PROMPTS)))
    begins = {"text": "assistant: ", "inst": "[/INST]", "none": ""}
    assert asked.endswith(begins.get(template, "<|im_start|>assistant\n"))
    assert str(tokenizer.chat_template).startswith(TEMPLATES[template] or "") is (template not in ("inst", "unasked"))


@pytest.mark.parametrize("template", TEMPLATES)
def test_plain_transformers_asks_with_the_template_that_is_published_as_the_run_did(tmp_path, template):
    """Where the run changed nothing, none is published and the model's own says the same."""
    tokenizer, model = loaded(tmp_path, byte_level(), template, **NAMED)
    shipped, plain = ChatSettings.of(model).template, AutoTokenizer.from_pretrained(tmp_path)
    assert (shipped is not None) is (template in ("inst", "unasked", "none"))
    plain.chat_template = shipped or plain.chat_template
    for example in ROWS:
        chat = prompt_messages(example, "system1", PROMPTS)
        made = plain.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert made == prompt_ids(tokenizer, chat)


@pytest.mark.parametrize(
    ("made", "answer", "message"),
    [
        (lambda: sentence_piece(False), "42 \u6f22", "'42 \u6f22' comes back as '42 '"),
        (lambda: byte_level(normalizer=normalizers.Lowercase()), "Ada has", "'Ada has' comes back as 'ada has'"),
        (word_piece, "has 2\n    pens", "'has 2\\n    pens' comes back as 'has 2 pens'"),
    ],
    ids=["unknown", "small letters", "white space"],
)
def test_answers_that_a_tokenizer_does_not_give_back_are_reported(tmp_path, made, answer, message):
    tokenizer, model = loaded(tmp_path, made(), "chatml", **NAMED)
    check = RowCheck(tokenizer, model, PROMPTS)
    check.see([ROWS[0], ROWS[0].model_copy(update={"id": "odd", "answer": answer})])
    (note,) = [note for note in check.notes() if "does not give back" in note]
    assert "in 1 of 2 rows (the first is row odd: " in note
    assert message in note
    check = RowCheck(tokenizer, model, PROMPTS)
    check.see(ROWS[:1])
    assert not [note for note in check.notes() if "does not give back" in note]


def test_tags_that_a_tokenizer_takes_apart_are_reported(tmp_path):
    tokenizer, model = loaded(tmp_path, word_piece(), "chatml", **NAMED)
    check = RowCheck(tokenizer, model, PROMPTS)
    check.see(ROWS[:1])
    assert sum("so no answer is seen to have this tag; name tags that it keeps" in note for note in check.notes()) == 4
