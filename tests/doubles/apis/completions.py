"""OpenAI's completions API of the fake upstream: each form of a prompt, several choices, echo, log probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apis.api import STREAM_HEAD, Api, openai_error, send_events, send_json, stream
from apis.texts import HELLO
from samples.completions import LOGPROBS, USAGE, choice, completion
from samples.sample import data_event
from wire import Connection

DONE = b"data: [DONE]\n\n"
SMALL_CEILING = 2
"""An answer with at most this ceiling has the finish reason `length`."""


def prompts(body: dict[str, Any]) -> list[Any]:
    """Return the prompts: one text, several, one list of token ids, or several."""
    prompt = body["prompt"]
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


def echo(body: dict[str, Any], prompt: Any) -> str:
    """Return what is repeated of *prompt* in front of the answer."""
    if not body.get("echo"):
        return ""
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


def choices(body: dict[str, Any]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield index and pieces of each choice."""
    answers_each = body.get("n") or 1
    texts = HELLO[:1] if is_small(body) else HELLO
    for at, prompt in enumerate(prompts(body)):
        repeated = echo(body, prompt)
        for number in range(answers_each):
            yield at * answers_each + number, (*([repeated] if repeated else []), *texts)


def is_small(body: dict[str, Any]) -> bool:
    ceiling = body.get("max_tokens")
    return ceiling is not None and ceiling <= SMALL_CEILING


def usage(body: dict[str, Any]) -> dict[str, Any]:
    """Return the usage of all choices, with those that `best_of` drops."""
    count = len(prompts(body))
    generated = USAGE["completion_tokens"] * count * max(body.get("n") or 1, body.get("best_of") or 1)
    prompt = USAGE["prompt_tokens"] * count
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def chunks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream, the choices one after the other in each piece."""
    counted = (body.get("stream_options") or {}).get("include_usage")
    asked = {"model": body["model"], **({"usage": None} if counted else {})}
    logprobs = LOGPROBS if body.get("logprobs") is not None else None
    texts = dict(choices(body))
    for number in range(max(map(len, texts.values()))):
        for at, pieces in texts.items():
            if number < len(pieces):
                yield completion(choice(pieces[number], at=at, logprobs=logprobs), **asked)
    for at in texts:
        yield completion(choice("", finish(body), at=at), **asked)
    if counted:
        yield completion(**asked | {"usage": usage(body)})


def finish(body: dict[str, Any]) -> str:
    return "length" if is_small(body) else "stop"


async def answers(connection: Connection) -> None:
    """Answer with a stream or with one object."""
    body = connection.body
    if body.get("stream"):
        await stream(connection, [*map(data_event, chunks(body)), DONE])
        return
    logprobs = LOGPROBS if body.get("logprobs") is not None else None
    found = [choice("".join(texts), finish(body), at=at, logprobs=logprobs) for at, texts in choices(body)]
    await send_json(connection, completion(*found, model=body["model"], usage=usage(body)))


async def begin(connection: Connection) -> None:
    """Send the head and two pieces of text."""
    await connection.send(STREAM_HEAD)
    await send_events(connection, map(data_event, list(chunks(connection.body))[:2]))


def error_events(error: dict[str, Any]) -> bytes:
    return data_event({"error": error}) + DONE


COMPLETIONS = Api(answers, begin, openai_error, error_events)
