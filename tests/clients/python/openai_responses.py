"""OpenAI's client for Python, synchronous: the Responses API."""

from __future__ import annotations

from typing import Any

from openai import OpenAI
from operations import (
    API_KEY,
    BASE_URL,
    MODEL,
    PERSON_QUESTION,
    PROMPT,
    WEATHER_FUNCTION,
    WEATHER_QUESTION,
    Person,
    Seen,
    get_weather,
    serve,
    user,
)

responses: Any = OpenAI(base_url=BASE_URL, api_key=API_KEY).responses  # the types of the SDK's versions differ
CUSTOM_TOOL = {"type": "custom", "name": "run_python", "description": "Run Python code."}
SMALL_CEILING = 16
MISSING = "resp_missing"


def collect(seen: Seen, **asked: Any) -> None:
    """Keep all events of a stream."""
    kept = seen["events"] = []
    with responses.create(model=MODEL, stream=True, **asked) as events:
        for event in events:
            kept.append(event.model_dump())
            if event.type == "error":
                raise RuntimeError(event.message)  # an application must look for this event: the SDK yields it
            if event.type == "response.failed":
                raise RuntimeError(event.response.error.message)


def plain(seen: Seen) -> None:
    answer = responses.create(model=MODEL, input=PROMPT)
    seen["text"], seen["answer"] = answer.output_text, answer.model_dump()


def stream(seen: Seen) -> None:
    collect(seen, input=PROMPT)


def tools(seen: Seen) -> None:
    asked = user(WEATHER_QUESTION)
    answer = responses.create(model=MODEL, input=asked, tools=[WEATHER_FUNCTION])
    (call,) = (item for item in answer.output if item.type == "function_call")
    seen["call"] = call.model_dump()
    output = {"type": "function_call_output", "call_id": call.call_id, "output": get_weather(call.arguments)}
    asked += [*(item.to_dict() for item in answer.output), output]
    seen["answer"] = responses.create(model=MODEL, input=asked, tools=[WEATHER_FUNCTION]).model_dump()


def tools_stream(seen: Seen) -> None:
    with responses.stream(model=MODEL, input=WEATHER_QUESTION, tools=[WEATHER_FUNCTION]) as events:
        seen["events"] = [event.type for event in events]
        seen["answer"] = events.get_final_response().model_dump()


def structured(seen: Seen) -> None:
    answer = responses.parse(model=MODEL, input=PERSON_QUESTION, text_format=Person)
    seen["person"] = answer.output_parsed.model_dump()


def structured_stream(seen: Seen) -> None:
    with responses.stream(model=MODEL, input=PERSON_QUESTION, text_format=Person) as events:
        seen["person"] = events.get_final_response().output_parsed.model_dump()


def incomplete(seen: Seen) -> None:
    seen["answer"] = responses.create(model=MODEL, input=PROMPT, max_output_tokens=SMALL_CEILING).model_dump()


def incomplete_stream(seen: Seen) -> None:
    collect(seen, input=PROMPT, max_output_tokens=SMALL_CEILING)


def custom_tool(seen: Seen) -> None:
    asked = user(PROMPT)
    answer = responses.create(model=MODEL, input=asked, tools=[CUSTOM_TOOL])
    (call,) = answer.output
    seen["call"] = call.model_dump()
    output = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "1"}
    seen["answer"] = responses.create(model=MODEL, input=[*asked, call.to_dict(), output]).model_dump()


def custom_tool_stream(seen: Seen) -> None:
    collect(seen, input=PROMPT, tools=[CUSTOM_TOOL])


def previous(seen: Seen) -> None:
    """Continue a response, by its id alone."""
    first = responses.create(model=MODEL, input=PROMPT)
    second = responses.create(model=MODEL, input="And again", previous_response_id=first.id)
    seen["first"], seen["second"] = first.id, second.model_dump()


def previous_missing(seen: Seen) -> None:
    seen["answer"] = responses.create(model=MODEL, input=PROMPT, previous_response_id=MISSING).model_dump()


def stored(seen: Seen) -> None:
    """Read a response that this client has made, what it was made of, and delete it."""
    made = responses.create(model=MODEL, input=PROMPT)
    seen["read"] = responses.retrieve(made.id).model_dump()
    seen["items"] = [item.model_dump() for item in responses.input_items.list(made.id, limit=5, order="asc")]
    responses.delete(made.id)
    seen["state"] = "deleted"


def stored_missing(seen: Seen) -> None:
    seen["read"] = responses.retrieve(MISSING).model_dump()


def cancel_stored(seen: Seen) -> None:
    made = responses.create(model=MODEL, input=PROMPT)
    seen["cancelled"] = responses.cancel(made.id).model_dump()


def input_tokens(seen: Seen) -> None:
    seen["count"] = responses.input_tokens.count(model=MODEL, input=PROMPT).model_dump()


def cancel(seen: Seen) -> None:
    with responses.create(model=MODEL, input=PROMPT, stream=True) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                seen["text"] = event.delta
                break


serve(
    "openai",
    plain,
    stream,
    tools,
    tools_stream,
    structured,
    structured_stream,
    incomplete,
    incomplete_stream,
    custom_tool,
    custom_tool_stream,
    previous,
    previous_missing,
    stored,
    stored_missing,
    cancel_stored,
    input_tokens,
    cancel,
)
