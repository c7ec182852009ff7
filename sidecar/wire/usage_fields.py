"""Usage as servers report it: the fields of all known forms, and the figures that they mean.

| form | fields |
| --- | --- |
| OpenAI, Azure, Groq, Together, Fireworks, vLLM, SGLang, TGI, TensorRT-LLM, llama.cpp, MLX | `prompt_tokens`, `completion_tokens`, `prompt_tokens_details.cached_tokens` |
| xAI, Gemini, Perplexity | the same, with reasoning outside of `completion_tokens` |
| DeepSeek | `prompt_cache_hit_tokens`, `prompt_cache_miss_tokens` |
| Kimi, Mistral | `cached_tokens`, `num_cached_tokens`, `prompt_token_details` |
| Responses, mlx-vlm | `input_tokens`, `output_tokens`, `input_tokens_details.cached_tokens` |
| Anthropic | `input_tokens`, which excludes `cache_read_input_tokens` and `cache_creation_input_tokens` |
| MiniMax | `total_tokens` alone |
| Groq, Kimi | in `x_groq.usage` or `choices[0].usage` of the last chunk, instead of `usage` |
| llama.cpp | `timings` with `cache_n`, `prompt_n` and `predicted_n`, beside `usage` or instead of it |
| Ollama | `prompt_eval_count`, `eval_count` |

Samples with their sources are in `tests/doubles/usage_samples.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec

from policies.api.decoding.values import decode_values

from .decoding.value_count import holds_many_values

MAX_REPORTED_TOKENS = 10_000_000
"""Larger numbers are ignored: no model has such a context, and one such report would exhaust a tenant's budget."""
MAX_SEARCHED_BYTES = 1_048_576
"""Bytes of an object up to which it is searched for the places before it is decoded."""
MAX_NUMBER_CHARACTERS = 20
"""Longest string that is read as a number."""
TokenCount: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_REPORTED_TOKENS)]
"""A number of tokens, not negative. A report with any other value is read by `read_report`."""


class TokenDetails(msgspec.Struct, gc=False):
    """`prompt_tokens_details`, `completion_tokens_details`, and the same of inputs and outputs."""

    cached_tokens: TokenCount | None = None
    reasoning_tokens: TokenCount | None = None
    cache_write_tokens: TokenCount | None = None
    cache_creation_tokens: TokenCount | None = None


class Reported(msgspec.Struct, gc=False):
    """One `usage` object, with the names of all servers."""

    prompt_tokens: TokenCount | None = None
    completion_tokens: TokenCount | None = None
    total_tokens: TokenCount | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None
    input_tokens: TokenCount | None = None
    output_tokens: TokenCount | None = None
    input_tokens_details: TokenDetails | None = None
    output_tokens_details: TokenDetails | None = None
    cached_tokens: TokenCount | None = None
    num_cached_tokens: TokenCount | None = None
    prompt_token_details: TokenDetails | None = None
    prompt_cache_hit_tokens: TokenCount | None = None
    prompt_cache_miss_tokens: TokenCount | None = None
    cache_read_input_tokens: TokenCount | None = None
    cache_creation_input_tokens: TokenCount | None = None
    reasoning_tokens: TokenCount | None = None


class Timings(msgspec.Struct, gc=False):
    """`timings` of llama.cpp. `prompt_n` excludes the `cache_n` tokens that were in its cache."""

    cache_n: TokenCount | None = None
    prompt_n: TokenCount | None = None
    predicted_n: TokenCount | None = None


class UsageHolder(msgspec.Struct, gc=False):
    """An object with a `usage`: a choice (Kimi), or `x_groq`."""

    usage: Reported | None = None


class ReportPlaces(msgspec.Struct, gc=False):
    """The places of a chunk, beside its own `usage`, in which servers report usage."""

    choices: list[UsageHolder] | None = None
    x_groq: UsageHolder | None = None
    timings: Timings | None = None
    prompt_eval_count: TokenCount | None = None
    prompt_eval_cached_count: TokenCount | None = None
    eval_count: TokenCount | None = None


class Figures(NamedTuple):
    """The figures of one report, in tokens; 0 for those that it lacks.

    `prompt` includes `cached` and `written`, what was read from a cache and written to it; `output` includes reasoning. `total` is as reported, `has_prompt_field` whether the report has
    a field for the prompt, even an empty one.
    """

    prompt: int
    output: int
    cached: int
    total: int
    has_prompt_field: bool
    written: int


_DETAIL_FIELDS = frozenset(name for name in Reported.__struct_fields__ if name.endswith("_details"))
_decode_places = msgspec.json.Decoder(ReportPlaces).decode


def read_report(value: object) -> Reported | None:
    """Return the report in *value*, decoded JSON; None if it is not an object. Fields that are not numbers are absent."""
    if not isinstance(value, dict):
        return None
    fields: dict[str, Any] = {name: value.get(name) for name in Reported.__struct_fields__}
    for name, field in fields.items():
        fields[name] = _details(field) if name in _DETAIL_FIELDS else _number(field)
    return Reported(**fields)


def _details(value: object) -> TokenDetails | None:
    if not isinstance(value, dict):
        return None
    return TokenDetails(**_numbers(value, TokenDetails))


def _number(value: object) -> int | None:
    """Return the number of tokens that *value* means, rounded up; None where it cannot be one."""
    if isinstance(value, str) and value.isascii() and len(value) <= MAX_NUMBER_CHARACTERS:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_REPORTED_TOKENS:
        return None
    return math.ceil(value)


def reports_beside(payload: bytes, *, has_usage: bool) -> Sequence[Reported]:
    """Return the reports in the JSON object *payload* outside of its own `usage`, the most reliable one last.

    Empty if there is none, or if *payload* cannot be decoded. *has_usage*: it has a `usage` of its own, so only places
    that may have further figures are read.
    """
    find = payload.find  # `in` takes twice as long: it tries an integer first
    if len(payload) > MAX_SEARCHED_BYTES:
        pass  # decoding takes less time than the searches
    elif find(b'"timings"') < 0:
        if has_usage:
            if find(b'"x_groq"') < 0:
                return ()
        elif find(b'"usage"') < 0 and find(b'eval_count"') < 0:
            return ()
    try:
        places = _decode_places(payload)
    except msgspec.ValidationError:
        places = _read_places(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    found = [_report_of_counts(places), _report_of_timings(places.timings)]
    found += [choice.usage for choice in places.choices or ()]
    found.append(None if places.x_groq is None else places.x_groq.usage)
    return [report for report in found if report is not None]


def _read_places(payload: bytes) -> ReportPlaces:
    """Return the places in *payload*, some of which are of unexpected types; none of one with too many values."""
    if len(payload) > MAX_SEARCHED_BYTES or holds_many_values(payload):
        return ReportPlaces()
    try:
        data = decode_values(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ReportPlaces()
    if not isinstance(data, dict):
        return ReportPlaces()
    choices, groq, timings = data.get("choices"), data.get("x_groq"), data.get("timings")
    return ReportPlaces(
        choices=[_holder(each) for each in choices] if isinstance(choices, list) else None,
        x_groq=_holder(groq),
        timings=Timings(**_numbers(timings, Timings)) if isinstance(timings, dict) else None,
        prompt_eval_count=_number(data.get("prompt_eval_count")),
        prompt_eval_cached_count=_number(data.get("prompt_eval_cached_count")),
        eval_count=_number(data.get("eval_count")),
    )


def _holder(value: object) -> UsageHolder:
    return UsageHolder(read_report(value.get("usage")) if isinstance(value, dict) else None)


def _numbers(data: Mapping[str, Any], form: type[msgspec.Struct]) -> dict[str, int | None]:
    return {name: _number(data.get(name)) for name in form.__struct_fields__}


def _report_of_counts(places: ReportPlaces) -> Reported | None:
    if places.prompt_eval_count is None and places.eval_count is None:
        return None
    return Reported(
        prompt_tokens=places.prompt_eval_count,
        completion_tokens=places.eval_count,
        cached_tokens=places.prompt_eval_cached_count,
    )


def _report_of_timings(timings: Timings | None) -> Reported | None:
    """Return the report in *timings*; without `cache_n` (older servers) the size of the prompt is not known."""
    if timings is None:
        return None
    cached = timings.cache_n
    prompt = None if cached is None else cached + (timings.prompt_n or 0)
    return Reported(prompt_tokens=prompt, completion_tokens=timings.predicted_n, cached_tokens=cached)


def figures_of(report: Reported) -> Figures:
    """Return what *report* means.

    Of several fields for one figure the largest counts. `input_tokens` excludes what `cache_read_input_tokens` and
    `cache_creation_input_tokens` count (Anthropic); `prompt_tokens` includes it, unless it is smaller than both together.
    Reasoning that exceeds `completion_tokens` cannot be part of it, so it is added (xAI, Perplexity).
    """
    hits, read = report.prompt_cache_hit_tokens or 0, report.cache_read_input_tokens or 0
    prompt_details, input_details = report.prompt_tokens_details, report.input_tokens_details
    cached = max(
        prompt_details.cached_tokens or 0 if prompt_details is not None else 0,
        input_details.cached_tokens or 0 if input_details is not None else 0,
        report.cached_tokens or report.num_cached_tokens or 0,
        hits or read,
    )
    if report.prompt_token_details is not None:
        cached = max(cached, report.prompt_token_details.cached_tokens or 0)
    prompt = max(report.prompt_tokens or 0, hits + (report.prompt_cache_miss_tokens or 0))
    own, beside = report.input_tokens or 0, read + (report.cache_creation_input_tokens or 0)
    if not prompt:
        prompt = own + beside
    elif prompt < beside:
        prompt += beside
    else:
        prompt = max(prompt, own)
    output = max(report.completion_tokens or 0, report.output_tokens or 0)
    completion_details, output_details = report.completion_tokens_details, report.output_tokens_details
    reasoning = max(
        completion_details.reasoning_tokens or 0 if completion_details is not None else 0,
        output_details.reasoning_tokens or 0 if output_details is not None else 0,
        report.reasoning_tokens or 0,
    )
    if reasoning > output:
        output += reasoning
    has_prompt_field = prompt > 0 or report.prompt_tokens is not None or report.input_tokens is not None
    return Figures(prompt, output, cached, report.total_tokens or 0, has_prompt_field, _written(report))


def _written(report: Reported) -> int:
    """Return the tokens that were written to a cache, which some vendors price above input."""
    written = report.cache_creation_input_tokens or 0
    for details in (report.prompt_tokens_details, report.input_tokens_details):
        if details is not None:
            written = max(written, details.cache_write_tokens or 0, details.cache_creation_tokens or 0)
    return written
