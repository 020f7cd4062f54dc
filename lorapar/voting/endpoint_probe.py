"""What an endpoint can do, found out by its first calls: a restriction counts only once it is seen to hold.

Servers ignore what they do not know, so a restriction that is accepted proves nothing. The probe allows two made-up
words that no model would say by itself: an answer that is one of them was restricted.
"""

from __future__ import annotations

from lorapar.errors import BadInputError
from lorapar.records import System
from lorapar.voting.endpoint_answers import Choice, Constraint, JsonEnum, TokenRead, request_of
from lorapar.voting.endpoint_client import EndpointClient, RefusedError
from lorapar.voting.templates import SYSTEM_ORDER, Prompt

_QUESTION = "Say hello."
_WORDS: dict[System, str] = {"system1": "zqxamber", "system2": "wvkcobalt"}
_PROBES = (
    Prompt(({"role": "user", "content": _QUESTION},), None, _WORDS),
    Prompt(None, _QUESTION, {system: " " + word for system, word in _WORDS.items()}),
)
# Refusals that have nothing to do with the restriction.
_NO_KEY, _NO_MODEL = (401, 403), 404


async def probe(client: EndpointClient, model: str, sample: Prompt, *, same_ending: bool) -> Constraint:
    """The best way of holding answers to label words that the endpoint honours, for prompts like `sample`.

    `same_ending`: all prompts end in the same characters, so that a label word has the same tokens after each of them.
    Raises BadInputError where the endpoint honours none, refuses the key or does not know the model.
    """
    test = _PROBES[0] if sample.messages is not None else _PROBES[1]
    reasons = []
    for constraint in (Choice(), JsonEnum()):
        reason = await _why_not(client, model, constraint, test)
        if reason is None:
            read = await _token_read(client, model, sample) if same_ending and constraint.name == Choice.name else None
            return read or constraint
        reasons.append(f"{constraint.name}: {reason}")
    raise BadInputError(
        f"{client.address} cannot hold the answers of {model} to the label words ({'; '.join(reasons)}); choose an "
        "endpoint with structured_outputs (vLLM) or JSON-schema response formats, or another backend"
    )


async def _why_not(client: EndpointClient, model: str, constraint: Constraint, test: Prompt) -> str | None:
    """Why a restriction does not hold there; None where it holds."""
    path, body = request_of(model, test)
    try:
        answer = await client.post(path, constraint.restrict(body, test))
        found = constraint.read(answer, test)
    except RefusedError as error:
        await _check_refusal(client, model, error)
        return str(error).removeprefix(client.address)
    except (KeyError, IndexError, TypeError, ValueError):
        return "the answer is not shaped as the OpenAI API says"
    return None if found.label is not None else f"ignored, it answered '{found.raw[:40]}'"


async def _check_refusal(client: EndpointClient, model: str, error: RefusedError) -> None:
    """Raise BadInputError where the refusal is about the key or the model."""
    if error.status in _NO_KEY:
        raise BadInputError(f"{error}; set the variable that openai.api_key_env names to a key it takes") from error
    if error.status == _NO_MODEL:
        served = await _served(client)
        if model not in served:
            known = f"; it serves {', '.join(served)}" if served else ""
            raise BadInputError(f"{error}: no model '{model}' there{known}; mend model or endpoint") from error


async def _served(client: EndpointClient) -> list[str]:
    try:
        return [str(one["id"]) for one in (await client.get("/models"))["data"]]
    except (RefusedError, KeyError, TypeError):
        return []


async def _token_read(client: EndpointClient, model: str, sample: Prompt) -> TokenRead | None:
    """The restriction by tokens, where the server says what they are and both words have one; None elsewhere."""
    try:
        tokens = {system: await _only_token(client, model, sample, system) for system in SYSTEM_ORDER}
        found = {system: token for system, token in tokens.items() if token is not None}
        if len(set(found.values())) != len(SYSTEM_ORDER):
            return None
        path, body = request_of(model, sample)
        constraint = TokenRead(found)
        constraint.read(await client.post(path, constraint.restrict(body, sample)), sample)
    except (RefusedError, KeyError, IndexError, TypeError, ValueError):
        return None
    return constraint


async def _only_token(client: EndpointClient, model: str, sample: Prompt, system: System) -> int | None:
    """The one token that a label word is after the prompt; None where it is several, or changes those before it."""
    if sample.messages is not None:
        asked = {"model": model, "messages": list(sample.messages)}
        alone = (await client.post_beside("/tokenize", asked))["tokens"]
        text = (await client.post_beside("/detokenize", {"model": model, "tokens": alone}))["prompt"]
    else:
        text = str(sample.text)
        alone = (await client.post_beside("/tokenize", {"model": model, "prompt": text}))["tokens"]
    whole = {
        "model": model,
        "prompt": text + sample.continuations[system],
        "add_special_tokens": sample.text is not None,
    }
    both = (await client.post_beside("/tokenize", whole))["tokens"]
    return int(both[-1]) if both[:-1] == alone else None
