"""The loop of a client script: read the name of an operation, run it, print what the application saw as one JSON line.

The driver starts a script with the base URL as its argument. The first line that a script prints names its
version. Each operation fills `seen`; an exception becomes `seen["error"]`, and what was seen before it is kept.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Coroutine, Iterator
from importlib.metadata import version
from typing import Any, TypeAlias

from pydantic import BaseModel

MODEL = "gpt-4o-mini"
API_KEY = "sk-test"
PROMPT = "Say hello"
WEATHER_QUESTION = "How warm is it in Oslo?"
PERSON_QUESTION = "Who wrote the first program?"
BASE_URL = sys.argv[-1]

Seen: TypeAlias = dict[str, Any]
Operation: TypeAlias = Callable[[Seen], Coroutine[Any, Any, None] | None]


class Person(BaseModel):
    """A person."""

    name: str
    born: int


def get_weather(city: str) -> str:
    """Return the temperature in a city."""
    return f"21 degrees in {city}"


WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Return the temperature in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


WEATHER_FUNCTION: dict[str, Any] = {"type": "function", "strict": None, **WEATHER_TOOL["function"]}
"""The same tool as the Responses API describes it."""


def user(text: str) -> list[Any]:
    """Return a conversation of one user message."""
    return [{"role": "user", "content": text}]


def described(error: BaseException) -> dict[str, Any]:
    """Return what an application can read of *error*: class, message, and the fields that OpenAI's client sets.

    Further lines of a message have times and ids that differ from run to run.
    """
    fields = ("status_code", "code", "type", "param")
    found = {name: getattr(error, name) for name in fields if hasattr(error, name)}
    body = getattr(error, "body", None)
    message = str(error).partition("\n")[0]
    return {
        "class": type(error).__name__,
        "message": message,
        "body": body if isinstance(body, dict) else None,
        **found,
    }


def exceptions_of(error: BaseException) -> Iterator[BaseException]:
    """Yield *error*, or the exceptions in it if it is a group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from exceptions_of(each)
    else:
        yield error


def serve(package: str, *operations: Operation) -> None:
    """Run the operations that stdin names, one a line, until its end; each has the name of its function."""
    named = {operation.__name__: operation for operation in operations}
    results, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no result

    def say(line: Any) -> None:
        results.write(json.dumps(line, default=repr) + "\n")
        results.flush()

    async def run() -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):  # the loop runs on, as in an application
            seen: Seen = {}
            operation = named[line.strip()]
            try:
                if inspect.iscoroutinefunction(operation):
                    await operation(seen)
                else:
                    await asyncio.to_thread(operation, seen)
            except Exception as error:  # noqa: BLE001  # the exception is the result
                seen["error"] = described(next(exceptions_of(error)))
            say(seen)

    say({"version": version(package)})
    asyncio.run(run())
