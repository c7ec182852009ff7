"""An upstream that obeys every field of a request: the reading that costs most, of all that some router could make.

It reads names of models, hosts and keys, ceilings and numbers of answers from any field and at any depth. It does not
read what only a model reads: messages, schemas, grammars and the descriptions of functions; nor labels of the call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from wire import HEAD, Connection, sse

CHEAP, DEAR, ELSEWHERE = "cheap", "dear", "elsewhere"
ALIASES = {"smart": DEAR, "auto": DEAR, "openrouter/auto": DEAR}
"""Names that this router has given to its dear model."""
UNLIMITED_TOKENS = 500_000
PROMPT_FIELDS = frozenset(
    "messages response_format guided_json guided_regex guided_choice guided_grammar structured_outputs json_schema"  # noqa: SIM905
    " grammar format logit_bias prediction documents chat_template functions function custom user_location".split()
)
"""Fields that only a model or a grammar reads."""
LABEL_FIELDS = frozenset("user stop session_id request_id model_identity type name".split())  # noqa: SIM905
CEILING_NAMES = frozenset(
    "maxtokens maxcompletiontokens npredict numpredict maxoutputtokens maxnewtokens maxlength maxgenlen maxtokenstosample"  # noqa: SIM905
    " maxgeneratedtokens maxdecodetokens mintokens minnewtokens minlength budgettokens thinkingbudget reasoningbudget"
    " tokenlimit maxanswertokens predict maxlen outputtokens".split()
)
COUNT_NAMES = frozenset(
    "n bestof ncmpl numreturnsequences candidatecount numoutputs numgenerations numcompletions samples".split()  # noqa: SIM905
)
NOT_LETTERS = re.compile(r"[\W_]+")
SWITCH_NAME = re.compile("fallback|route|routing|provider|preset|plugin|fast|online|turbo")
"""A switch or a number of such a name makes a router choose by its own settings."""
HOST_OR_KEY = re.compile(r"https?://|\b\d+\.\d+\.\d+\.\d+\b|\bsk-|\.example\b")
DEARER_TIERS = ("priority", "fast", "scale")


class Reading(NamedTuple):
    """What the router makes of a body: the model it serves, the tokens of all answers, and the factor of the price."""

    model: str
    tokens: int
    factor: int


def reading_of(body: dict[str, Any]) -> Reading:
    """Return the reading of *body* that costs most."""
    ceilings, counts, models, factor = [0], [1], {named(str(body.get("model") or CHEAP))}, 1
    for name, value in pairs(body):
        plain = NOT_LETTERS.sub("", name.casefold())
        number = float(value) if is_number(value) else None
        if number is not None and plain in CEILING_NAMES:
            ceilings.append(int(number) if number > 0 else UNLIMITED_TOKENS)
        elif number is not None and plain in COUNT_NAMES:
            counts.append(int(number))
        elif isinstance(value, str) and plain not in LABEL_FIELDS:
            models |= models_in(value)
            factor = 2 if value.lower() in DEARER_TIERS and "tier" in plain else factor
        if value and not isinstance(value, str) and SWITCH_NAME.search(plain):
            models.add(DEAR)
        models |= models_in(name)
    models |= {DEAR for tool in body.get("tools") or () if tool.get("type", "function") not in ("function", "custom")}
    served = next((model for model in (DEAR, ELSEWHERE) if model in models), CHEAP)
    return Reading(served, (max(ceilings) or UNLIMITED_TOKENS) * max(counts), factor)


def pairs(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each scalar in *value* with the nearest name above it, and each name with None."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key, None
            if key not in PROMPT_FIELDS:
                yield from pairs(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from pairs(each, name)
    else:
        yield name, value


def is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().isdecimal()
    return isinstance(value, int | float) and not isinstance(value, bool)


def named(name: str) -> str:
    """Return the model that this router serves for *name*, in any case, with or without suffixes."""
    return next(iter(models_in(name)), CHEAP)


def models_in(text: str) -> set[str]:
    """Return what *text* names, the dearest first: one model of a list, a preset, a routing variant, a host or a key."""
    if HOST_OR_KEY.search(text):
        return {ELSEWHERE}
    if "@preset" in text or re.search(":(nitro|online|exacto)", text, re.IGNORECASE):
        return {DEAR}
    parts = [part.strip().lower() for part in re.split(r"[,;|\s\0{}\"]+", text) if part.strip()]
    found = {ALIASES.get(part, part.partition(":")[0].rpartition("/")[2]) for part in parts}
    found = {part.strip("\0\u200b\xa0") for part in found}
    return {DEAR} if DEAR in found else found & {CHEAP}


async def obedient(connection: Connection) -> None:
    """Answer as the reading that costs most, and report its model and its tokens."""
    read = reading_of(connection.body)
    usage = {"prompt_tokens": 1, "completion_tokens": read.tokens}
    if connection.body.get("stream"):
        await connection.send(HEAD)
        choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": "length"}
        await connection.chunk(sse({"model": read.model, "choices": [choice]}))
        await connection.chunk(sse({"model": read.model, "choices": [], "usage": usage}))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")
        return
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length"}
    await connection.answer(200, json.dumps({"model": read.model, "choices": [choice], "usage": usage}).encode())
