"""Rows through the chat templates of a dozen families: nothing of a row is lost without a word.

Each template does with messages of text what the family's published one does with them, in fewer words.
"""

import pytest

from lorapar.basemodel import load_tokenizer
from lorapar.config import ModelConfig, PromptConfig
from lorapar.data.rendering import RowCheck
from lorapar.errors import BadInputError
from lorapar.prompts import IGNORED, encode_rows
from lorapar.records import Example, Turn

QWEN3 = (
    "{%- if messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}\n"
    "{%- set ns = namespace(last=messages|length - 1, multi=true) %}\n"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}\n"
    "{%- if ns.multi and message.role == 'user' and not (message.content.startswith('<tool_response>')"
    " and message.content.endswith('</tool_response>')) %}{%- set ns.multi = false %}"
    "{%- set ns.last = index %}{%- endif %}{%- endfor %}\n"
    "{%- for message in messages %}\n"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n"
    "{%- elif message.role == 'assistant' %}{%- set content = message.content %}{%- set thought = '' %}\n"
    "{%- if '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}\n"
    "{%- if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' +"
    " content.lstrip('\\n') }}\n"
    "{%- else %}{{- '<|im_start|>assistant\\n' + content }}{%- endif %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)
R1 = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(system='') %}\n"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{% set ns.system = message['content'] %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}\n"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{{ '<|User|>' + message['content'] }}"
    "{%- endif %}\n"
    "{%- if message['role'] == 'assistant' %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|Assistant|>' + content + '<|im_end|>' }}{%- endif %}{%- endfor -%}\n"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
GPT_OSS = (
    "{{- '<|start|>system<|message|>You are ChatGPT.\\nReasoning: medium<|end|>' }}\n"
    "{%- if messages[0].role in ('system', 'developer') %}"
    "{{- '<|start|>developer<|message|># Instructions\\n\\n' + messages[0].content + '\\n\\n<|end|>' }}"
    "{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}\n"
    "{%- for message in rest %}{%- if message.role == 'assistant' %}\n"
    "{%- if '<|channel|>analysis<|message|>' in message.content or '<|channel|>final<|message|>' in"
    " message.content %}"
    "{{- raise_exception('You have passed a message containing <|channel|> tags in the content field.') }}"
    "{%- endif %}\n"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + message.content }}"
    "{%- if loop.last and not add_generation_prompt %}{{- '<|return|>' }}{%- else %}{{- '<|end|>' }}"
    "{%- endif %}\n"
    "{%- else %}{{- '<|start|>user<|message|>' + message.content + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- endif %}\n"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday"
    " Date: ' + date_string + '\\n\\n' + system_message + '<|eot_id|>' }}\n"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim +"
    " '<|eot_id|>' }}{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}\n"
    "{%- for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\n"
    "{%- if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\n"
    "{%- if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
MISTRAL3 = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
    "{{- bos_token }}\n"
    "{%- for message in loop_messages %}{%- if message['role'] == 'user' %}"
    "{%- if loop.last and system_message is defined %}"
    "{{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}\n"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content']|trim + eos_token }}{%- endif %}"
    "{%- endfor %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GLM45 = (
    "[gMASK]<sop>{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{% set ns.last = loop.index0 -%}{%- endif %}{%- endfor %}\n"
    "{%- for m in messages %}{%- if m.role == 'user' -%}<|user|>\n"
    "{{ m.content }}{%- elif m.role == 'assistant' -%}<|assistant|>{%- set thought = '' %}"
    "{%- set content = m.content %}\n"
    "{%- if '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}\n"
    "{%- if loop.index0 > ns.last and thought -%}{{ '\\n<think>' + thought.strip() + '</think>'}}{%- else -%}"
    "{{ '\\n<think></think>' }}{%- endif -%}{%- if content.strip() -%}{{ '\\n' + content.strip() }}"
    "{%- endif -%}\n"
    "{%- elif m.role == 'system' -%}<|system|>\n"
    "{{ m.content }}{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>"
    "{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}{%- endif -%}"
)
COMMAND_R = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}\n"
    "{%- if system_message != false %}"
    "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}\n"
    "{%- for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set content = message['content'] %}\n"
    "{%- if message['role'] == 'user' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}"
    "{% endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
GRANITE = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}"
    "{%- set system_message = 'Knowledge Cutoff Date: April 2024.\\nToday is ' + strftime_now('%B %d,"
    " %Y') + '.\\nYou are Granite, developed by IBM.' %}{%- set loop_messages = messages %}{%- endif %}\n"
    "{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}\n"
    "{%- for message in loop_messages %}"
    "{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] +"
    " '<|end_of_text|>\\n' }}{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}"
    "{{- '<|end_of_role|>' }}{%- endif %}{%- endfor %}"
)
NEMOTRON = (
    "{%- set ns = namespace(think=true) -%}{%- for message in messages -%}"
    "{%- if message['role'] in ('user', 'system') -%}{%- if '/think' in message['content'] -%}"
    "{%- set ns.think = true -%}{%- elif '/no_think' in message['content'] -%}{%- set ns.think = false -%}"
    "{%- endif -%}{%- endif -%}{%- endfor -%}\n"
    "{%- if messages[0]['role'] != 'system' -%}{{- 'System\\n' -}}{%- else -%}"
    "{{- 'System\\n' + messages[0]['content'].replace('/think', '').replace('/no_think', '').strip() }}"
    "{%- endif -%}{{- '\\n\\n' -}}\n"
    "{%- set messages = messages[1:] if messages[0]['role'] == 'system' else messages -%}\n"
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
    "{{- 'User\\n' + message['content'].replace('/think', '').replace('/no_think', '').strip() + '\\n' }}\n"
    "{%- elif loop.last -%}"
    "{{- 'Assistant\\n' + ('<think></think>' if not ns.think else '<think>\\n\\n') +"
    " message['content'].strip() + '\\n<|im_end|>\\n\\n' -}}\n"
    "{%- else -%}{%- set content = message['content'] -%}{%- if '</think>' in content -%}"
    "{%- set content = content.split('</think>')[1].strip() -%}{%- endif -%}"
    "{{- 'Assistant\\n' + content.strip() + '\\n<|im_end|>\\n\\n' -}}{%- endif -%}{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- 'Assistant\\n' -}}"
    "{{- '<think></think>' if not ns.think else '<think>\\n\\n' -}}{%- endif -%}"
)
KIMI = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{ '<|im_system|>system<|im_middle|>You are Kimi.<|im_end|>' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_' + message['role'] + '|>' + message['role'] + '<|im_middle|>' }}"
    "{%- if message['role'] == 'assistant' -%}{{ '<think></think>' }}{%- endif -%}{{ message['content'] }}"
    "{{ '<|im_end|>' }}{%- endfor -%}{%- if add_generation_prompt -%}"
    "{{ '<|im_assistant|>assistant<|im_middle|>' }}{%- endif -%}"
)

FAMILIES = {
    "QWEN3": QWEN3,
    "R1": R1,
    "GPT_OSS": GPT_OSS,
    "LLAMA3": LLAMA3,
    "GEMMA2": GEMMA2,
    "MISTRAL3": MISTRAL3,
    "PHI3": PHI3,
    "GLM45": GLM45,
    "COMMAND_R": COMMAND_R,
    "GRANITE": GRANITE,
    "NEMOTRON": NEMOTRON,
    "KIMI": KIMI,
}
PROMPTS = PromptConfig(system1=None, system2="Show steps.")
PLAIN = Example(id="plain", question="5+8?", answer="13")
THOUGHT = Example(id="thought", question="5+8?", answer="<think>\n8 and 5 are 13\n</think>\n\n13")
BLANKS = Example(id="blanks", question=" 5+8?\n", answer="\n13 ")
EARLIER = (Turn(role="user", content="1+2?"), Turn(role="assistant", content="<think>hm</think>3"))
TALK = Example(id="talk", question="5+8?", answer="13", history=EARLIER)
OPENS = ("R1", "NEMOTRON")
"""Their prompts end with `<think>`."""
TRIMS = ("LLAMA3", "GEMMA2", "GLM45", "COMMAND_R", "NEMOTRON", "MISTRAL3")
"""They trim answers; all but GLM and Mistral questions, too."""
FORGETS = ("QWEN3", "R1", "GLM45", "NEMOTRON")
"""They drop what an earlier answer thought."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    model = ModelConfig(name="builtin:tiny", chat_template=FAMILIES[request.param])
    return request.param, model, load_tokenizer(model)


def notes_of(family, row):
    _, model, tokenizer = family
    check = RowCheck(tokenizer, model, PROMPTS)
    check.see([row])
    return " | ".join(check.notes())


def asked_and_learned(family, row):
    tokenizer = family[2]
    (encoded,) = encode_rows(tokenizer, [(row, "system2")], PROMPTS, max_length=5000)
    start = encoded["labels"].count(IGNORED)
    return tokenizer.decode(encoded["input_ids"][:start]), tokenizer.decode(encoded["input_ids"][start:])


@pytest.mark.parametrize("row", [PLAIN, THOUGHT, BLANKS, TALK], ids=lambda row: row.id)
def test_question_and_answer_are_asked_and_learned_whole(family, row):
    asked, learned = asked_and_learned(family, row)
    assert "Show steps." in asked
    assert row.question.strip() in asked
    answer = row.answer.removeprefix("<think>\n") if family[0] in OPENS else row.answer
    assert learned.count(answer) == 1
    assert "</think>" not in learned.replace(answer, "") or "<think>" not in answer
    assert (asked + learned).count("<think>") <= (asked + learned).count("</think>") or "</think>" not in row.answer


def test_what_a_template_writes_before_answers_is_there_where_it_trims_the_answer_too(family):
    plain = asked_and_learned(family, PLAIN)[1]
    before = plain[: plain.index("13")]
    learned = asked_and_learned(family, PLAIN.model_copy(update={"answer": "13 "}))[1]
    assert learned == before + "13 " + plain[len(before + "13") :]


def test_blanks_that_a_template_trims_are_reported(family):
    name, notes = family[0], notes_of(family, BLANKS)
    assert ("changes the answer of 1 of 1 rows" in notes) is (name in TRIMS)
    trimmed = "trims or rewraps the white space of questions or system messages in 1 of 1 rows"
    assert (trimmed in notes) is (name in TRIMS and name not in ("GLM45", "MISTRAL3"))


def test_thoughts_of_earlier_answers_that_a_template_drops_are_reported(family):
    message = "changes or leaves out an earlier answer in 1 of 1 rows" in notes_of(family, TALK)
    assert message is (family[0] in FORGETS)


def test_texts_that_a_template_takes_for_a_command_are_refused_by_row():
    model = ModelConfig(name="builtin:tiny", chat_template=NEMOTRON)
    row = PLAIN.model_copy(update={"question": "Where is /think in the URL?"})
    with pytest.raises(
        BadInputError, match=r"row plain: the chat template of builtin:tiny changes .* part of the ques"
    ):
        RowCheck(load_tokenizer(model), model, PROMPTS).see([row])
    model = ModelConfig(name="builtin:tiny", chat_template=GPT_OSS)
    row = PLAIN.model_copy(update={"answer": "<|channel|>analysis<|message|>8 and 5<|channel|>final<|message|>13"})
    with pytest.raises(BadInputError, match=r"row plain: .*<\|channel\|> tags in the content field"):
        RowCheck(load_tokenizer(model), model, PROMPTS).see([row])
