"""The openai backend against vLLM's own server: prompts as everywhere, answers held, and a server that dies."""

from __future__ import annotations

import asyncio
import json

import pytest

from lorapar.basemodel import load_tokenizer
from lorapar.config import EndpointOptions, TeacherConfig
from lorapar.errors import BadInputError, UnreachableError
from lorapar.voting.endpoint_client import EndpointClient, Login
from lorapar.voting.endpoint_reply import JsonEnum, reply_of, request_of
from lorapar.voting.endpoint_teacher import EndpointTeacher
from lorapar.voting.reader import encode
from lorapar.voting.teacher import render
from tests.integration.vllm.server import NAME

TARGET = "builtin:tiny (a tiny model)"


def ask(server, template, rows, **changes):
    values = {"name": "t", "backend": "openai", "endpoint": server.address, "model": NAME, "template": template}
    teacher = EndpointTeacher(TeacherConfig(**{**values, **changes}), target=TARGET, role_play=True)
    try:
        return {vote.example_id: vote for vote in teacher.votes(rows)}
    finally:
        teacher.close()


def client_of(server) -> EndpointClient:
    options = EndpointOptions()
    return EndpointClient(server.address, options, Login(server.address, options, {}))


def tokenized(server, body) -> list[int]:
    async def tokens():
        client = client_of(server)
        try:
            return (await client.post_beside("/tokenize", {"model": NAME, **body}))["tokens"]
        finally:
            await client.close()

    return asyncio.run(tokens())


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_the_server_reads_the_tokens_that_the_other_backends_read(kit, server, style) -> None:
    template = kit.template(style, "f", "m")
    tokenizer = load_tokenizer(kit.BASE)
    for row in kit.ROWS[:14]:
        prompt = render(template, row, TARGET, role_play=True)
        (choice,) = encode(tokenizer, [prompt])
        body = {"messages": list(prompt.messages)} if prompt.messages else {"prompt": prompt.text}
        tokens = tokenized(server, body)
        assert tokens[: len(choice.prompt)] == list(choice.prompt)
        assert len(tokens) - len(choice.prompt) <= 1  # the space before a word counts as the word's


def test_words_of_one_token_give_the_votes_of_transformers(kit, server) -> None:
    template = kit.template("chat", "f", "m")
    votes, expected = ask(server, template, kit.ROWS), kit.by_transformers(template)
    assert votes.keys() == expected.keys()
    for row, vote in votes.items():
        assert vote.log_probs == pytest.approx(expected[row].log_probs, abs=1e-4)
        assert (vote.label, vote.raw, vote.template) == (expected[row].label, expected[row].raw, expected[row].template)
        assert vote.confidence == pytest.approx(expected[row].confidence, abs=1e-4)


def test_longer_words_are_held_by_choice_and_the_likelier_first_token_wins(kit, server) -> None:
    # The instruction names no label words, so both templates ask the same question.
    words = kit.template("chat", "fact", "maths", instruction="You are {target}.").model_copy(update={"few_shot": ()})
    letters = kit.template("chat", "f", "m", instruction="You are {target}.").model_copy(update={"few_shot": ()})
    votes, expected = ask(server, words, kit.ROWS), kit.by_transformers(letters)
    assert {vote.raw for vote in votes.values()} <= {"fact", "maths"}
    assert {row: vote.label for row, vote in votes.items()} == {row: vote.label for row, vote in expected.items()}
    assert {vote.confidence for vote in votes.values()} == {None}
    assert all(vote.tokens > 20 for vote in votes.values())


def test_plain_text_is_continued_with_one_of_the_words(kit, server) -> None:
    votes = ask(server, kit.template("plain", "fact", "maths"), kit.ROWS[:16])
    assert {vote.raw.strip() for vote in votes.values()} <= {"fact", "maths"}
    assert len(votes) == 16


def test_a_json_schema_holds_there_too(kit, server) -> None:
    template = kit.template("chat", "fact", "maths")

    async def answers():
        client = client_of(server)
        found = []
        for row in kit.ROWS[:4]:
            prompt = render(template, row, TARGET, role_play=True)
            path, body = request_of(NAME, prompt)
            answer = await client.post(path, JsonEnum().restrict(body, prompt))
            found.append(JsonEnum().read(reply_of(answer), prompt))
        await client.close()
        return found

    for answer in asyncio.run(answers()):
        assert answer.label is not None
        assert json.loads(answer.raw) == {"label": {"system1": "fact", "system2": "maths"}[answer.label]}


def test_a_wrong_model_name_is_reported_with_what_is_served(kit, server) -> None:
    with pytest.raises(BadInputError, match=rf"teacher 't': .*no model 'other' there; it serves {NAME}"):
        ask(server, kit.template("chat", "f", "m"), kit.ROWS[:1], model="other")


def test_a_server_that_dies_in_mid_round_is_one_line_with_row_and_place(kit, server) -> None:
    template = kit.template("chat", "fact", "maths")
    options = {"attempts": 2, "max_wait_seconds": 0.1, "concurrency": 4}
    config = TeacherConfig(
        name="t", backend="openai", endpoint=server.address, model=NAME, template=template, openai=options
    )
    teacher = EndpointTeacher(config, target=TARGET, role_play=True)
    votes = teacher.votes(kit.ROWS)
    seen = [next(votes).example_id]
    server.kill()
    with pytest.raises(UnreachableError) as caught:
        seen += [vote.example_id for vote in votes]
    teacher.close()
    assert 0 < len(seen) < len(kit.ROWS)
    message = str(caught.value)
    assert message.startswith("teacher 't': row r")
    assert f"{server.address}/chat/completions: the connection failed" in message
    assert "\n" not in message
