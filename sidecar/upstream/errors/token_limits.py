"""Read from an error text which token limit a request exceeds, and which ceiling the server would accept.

Numbers and nouns decide, whatever the server's words are: if a number that was sent is above the limit of the context, the
prompt is too long.  Sentences count only in a text without such numbers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .token_numbers import MAX_LIMIT_TEXT_LENGTH, OUTPUT_FIELD, Noun, Part, nouns_in, token_numbers

SMALLEST_LIMIT = 2
"""A smaller number is the lower end of a range, such as [1, 8192]."""
_NOISE_TEXT = re.compile(r"\bhttps?://\S+|<\d{3}>|\(parameter=\w{1,40}, value=\d{1,12}\)")
"""Addresses, a status that a server puts before its message, and a number that vLLM repeats behind it."""
_QUOTED_WORDS = re.compile(r"(?<!\w)([\"'`])(?=\S)((?:(?!\1).){1,2000})(?<=\S)\1(?!\w)", re.DOTALL)
_MESSAGE_KEY = re.compile(r"(?:message|error|detail|msg|raw)\\?[\"']?\s{0,3}:\s{0,3}b?\\?\Z")
"""What comes before the text of an error in JSON, which a gateway may have put into its own message."""

_NAMES_CEILING = re.compile(
    rf"\b(?:{OUTPUT_FIELD}|max(?:imum)?[ -](?:new[ -]|output[ -]|completion[ -])?tokens|(?:completion|output|generated)[ _]tokens"
    r"|completion length|length of the (?:\w{1,12} ){0,3}completion)\b"
)
_TOO_LOW = re.compile(
    r"\b(?:minimum|below|at least|higher|larger value|greater value|too (?:small|low)|increase|raise)\b|>= ?\d"
    r"|\b(?:must|should) be (?:greater|larger|more)\b"
)
"""Words of a server that wants a larger ceiling, for example more than the budget for reasoning."""
_UNSUPPORTED_WORDS = re.compile(
    r"\b(?:not supported|unsupported|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra (?:inputs|fields))\b"
)
_ONLY_STREAMED = re.compile(r"\bstream(?:ing|ed)?\b")
_OTHER_SUBJECT = re.compile(
    r"\b(?:images?|audio|videos?|files?|pdf|media|urls?|bytes|[mkg]b|names?|descriptions?|schemas?)\b"
)
"""Nouns of a sentence that is about the size of something else than a prompt."""
_SIZED_NOUNS = r"(?:contexts?|prompts?|inputs?(?! (?:should|validation))|messages?(?!\[|\.\w)|conversation|sequence length|token (?:count|limit)|tokens? in the prompt)"
_EXCESS_WORDS = (
    r"(?:exceed\w*|too (?:long|large|many|big)|(?:longer|larger|greater|bigger) than|overflow\w*|over the (?:limit|max\w*)"
    r"|above the (?:limit|max\w*)|out of (?:range|bounds)|reached|does not fit|doesn't fit)"
)
_OVERFLOW_WORDS = re.compile(
    rf"\b{_SIZED_NOUNS}\b[^.;\n]{{0,80}}\b{_EXCESS_WORDS}\b"
    rf"|\b(?:{_EXCESS_WORDS}|beyond|not enough)\b[^.;\n]{{0,80}}\b(?:context|window|max_model_len|max_seq_len|(?:prompt|input|model|sequence)[ _]len\w*"
    r"|(?:model|input|max\w*) (?:max )?(?:token|length) limit|model token limit|max(?:imum)? length)"
    r"|\bmax(?:imum)? (?:context|prompt|input|sequence|model)[ _](?:len\w*|size|window|tokens)"
    r"|\brange of (?:input|prompt|context) length"
    r"|\breduce (?:the length of )?(?:the|your) (?:prompt|input|messages|context)|\bshorten (?:the|your) (?:prompt|input|messages|conversation)"
    r"|\bshorter (?:prompt|input|messages?)\b|\bcontext[_ ]?(?:window|length|size|limit)?[_ ]?exceed"
    r"|\b(?:request|body) (?:body )?too large\b[^\n]{0,80}\btokens\b|\btoo many (?:input |prompt )?tokens\b"
)
_IS_EXCESS = re.compile(rf"\b{_EXCESS_WORDS}\b|\b(?:at most|maximum value|less than)\b")
_SENTENCE_ENDS = re.compile(r"[.!?](?=\s)|\n")
_RATE_WORDS = re.compile(
    r"\bper[ -_](?:sec|min|hour|day|month)|\bper(?:minute|day|hour)|\b[rt]p[smhd]\b|\brate[ _-]?limit|\bdaily\b|\bquota\b"
)
_RATE_LIMIT_NUMBER = re.compile(
    r"\blimit(?: (?:of|is))?[\s:=]{1,3}([0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]{1,9})\b(?!\.[0-9])"
)
_REQUESTED_NUMBER = re.compile(
    r"\b(?:requested|(?:this|your|the) request (?:has|contains|needs|requires|uses))(?: (?:a total of|about|up to))?[\s:=]{1,3}"
    r"([0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]{1,9})\b(?!\.[0-9])"
)
_TOO_LARGE = re.compile(r"\brequest (?:is )?too large\b|\b(?:input or output )?tokens must be reduced\b")
_PER_DAY = re.compile(r"\b(?:per|a)[ _-]day\b|\bper_?day\b|\bdaily\b|\b[rt]pd\b|_daily\b")


class Allowance(NamedTuple):
    """The ceiling that a server accepts, by its refusal.

    `ceiling` is in tokens; 0 means that the prompt alone is too long.  `lasting`: it is the model's own limit, for every
    prompt.  `context` is the model's context in tokens, 0 if the text does not name it.  `of_context`: the prompt's share
    of `ceiling` is unknown and must be left free.  `at_most`: the server stopped counting the prompt, so less than
    `ceiling` may be left.
    """

    ceiling: int
    lasting: bool = False
    context: int = 0
    of_context: bool = False
    at_most: bool = False


class TokenLimits:
    """The limits in tokens that an error text names; at most 4,096 characters of it are read.

    Words in quotes are left out, because servers quote their clients. A gateway's copy of another error is kept.
    """

    def __init__(self, text: str) -> None:
        shortened = _QUOTED_WORDS.sub(_without_quotation, _NOISE_TEXT.sub(" ", text[:MAX_LIMIT_TEXT_LENGTH]))
        self._text = shortened.lower()
        self._numbers = token_numbers(self._text)
        self._nouns = nouns_in(self._text)

    @property
    def names_ceiling(self) -> bool:
        """Whether the text names a field for ceilings, or the length of the answer."""
        return _NAMES_CEILING.search(self._text) is not None

    @property
    def names_rate(self) -> bool:
        """Whether the text is about what all requests of some time may use."""
        return _RATE_WORDS.search(self._text) is not None

    @property
    def is_per_day(self) -> bool:
        """Whether the text names a limit per day."""
        return _PER_DAY.search(self._text) is not None

    @property
    def has_no_quota(self) -> bool:
        """Whether the text names a limit of zero, which no wait changes (Gemini's free tier for some models)."""
        return 0 in _values(_RATE_LIMIT_NUMBER, self._text)

    @property
    def exceeds_rate(self) -> bool:
        """Whether this request alone is larger than the whole limit, whatever the others have used."""
        limits, requested = _values(_RATE_LIMIT_NUMBER, self._text), _values(_REQUESTED_NUMBER, self._text)
        if limits and requested:
            return max(requested) > min(limits)
        return _TOO_LARGE.search(self._text) is not None

    @property
    def is_overflow(self) -> bool:
        """Whether the text says that a prompt, alone or with its answer, is too long for the model."""
        if self.names_rate or (self.names_ceiling and _TOO_LOW.search(self._text)):
            return False
        limit = self._context or self._prompt_limit
        if limit and self._nouns != {Noun.OUTPUT} and any(each.value > limit for each in self._numbers):
            return True
        if self._nouns == {Noun.OUTPUT}:
            return False
        sentences = _SENTENCE_ENDS.split(self._text)
        kept = " . ".join(each for each in sentences if not _OTHER_SUBJECT.search(each) or "context" in each)
        return _OVERFLOW_WORDS.search(kept) is not None

    def allowance(self, ceiling: int) -> Allowance | None:
        """Return the `Allowance` below the refused *ceiling* that the text names; None if it names no number."""
        if not (self.names_ceiling or self.is_overflow or (self.names_rate and self.exceeds_rate)):
            return None
        context = self._context
        outputs = [each.value for each in self._numbers if each.noun is Noun.OUTPUT and each.part is Part.LIMIT]
        below = [value for value in outputs if SMALLEST_LIMIT <= value < ceiling]
        if not context and not below and (loose := self._loose_limit(ceiling)):
            if self._nouns == {Noun.OUTPUT}:
                below = [loose] if loose < ceiling else []
            else:
                context = loose
        if context:
            return self._of_context(context, ceiling)
        if self.prompt_overflows:
            return Allowance(0)
        return Allowance(max(below), lasting=self._lasts) if below and self.names_ceiling else None

    @property
    def blames_ceiling(self) -> bool:
        """Whether a lower ceiling may be accepted, where the text names no number."""
        if _TOO_LOW.search(self._text) or _UNSUPPORTED_WORDS.search(self._text):
            return False
        return self.names_ceiling or (self.is_overflow and Noun.PROMPT not in self._nouns)

    def names_excess(self, ceiling: int) -> bool:
        """Whether the text says that *ceiling* is too large, and not that its field is unknown."""
        return self.allowance(ceiling) is not None or _IS_EXCESS.search(self._text) is not None

    @property
    def rejects_field(self) -> bool:
        """Whether the server does not know the field for ceilings, or supports none."""
        return self.names_ceiling and _UNSUPPORTED_WORDS.search(self._text) is not None

    @property
    def is_about_model(self) -> bool:
        """Whether the text names only the answer's length, and neither the prompt nor an account's rate."""
        return self._nouns == {Noun.OUTPUT} and self._lasts

    @property
    def _lasts(self) -> bool:
        return Noun.PROMPT not in self._nouns and not self.names_rate

    @property
    def is_about_streaming(self) -> bool:
        """Whether the limit depends on whether the answer is a stream."""
        return _ONLY_STREAMED.search(self._text) is not None

    @property
    def prompt_overflows(self) -> bool:
        """Whether the prompt alone exceeds a limit, so that no ceiling helps."""
        context = self._context
        if context and (prompts := self._prompts(context)):
            return sum(prompts) >= context
        limit = self._prompt_limit
        return bool(limit) and any(
            each.value > limit and each.noun is not Noun.OUTPUT and each.noun is not Noun.CONTEXT
            for each in self._numbers
        )

    @property
    def _context(self) -> int:
        """The smallest number of tokens for prompt and answer together; 0 without one."""
        return min((each.value for each in self._numbers if each.noun is Noun.CONTEXT and each.value), default=0)

    @property
    def _prompt_limit(self) -> int:
        """The smallest limit of a prompt alone; 0 without one."""
        limits = (each for each in self._numbers if each.noun is Noun.PROMPT and each.part is Part.LIMIT)
        return min((each.value for each in limits if each.value >= SMALLEST_LIMIT), default=0)

    def _loose_limit(self, ceiling: int) -> int:
        """Return a limit whose noun is not known, such as what an account can afford; 0 without one."""
        limits = (each for each in self._numbers if each.noun is Noun.UNKNOWN and each.part is Part.LIMIT)
        return min((each.value for each in limits if each.value >= SMALLEST_LIMIT and each.value != ceiling), default=0)

    def _prompts(self, context: int) -> list[int]:
        numbers = [each for each in self._numbers if each.noun is Noun.PROMPT and each.value != context]
        if any(each.part is not Part.LIMIT for each in numbers):
            numbers = [each for each in numbers if each.part is not Part.LIMIT]
        return [each.value for each in numbers if each.sure] or [each.value for each in numbers]

    def _total(self, limit: int) -> int:
        """Return the tokens of the whole request, where they are named; else 0."""
        totals = (each for each in self._numbers if each.noun is not Noun.OUTPUT and each.noun is not Noun.PROMPT)
        return max((each.value for each in totals if each.value > limit and each.part is not Part.USED), default=0)

    def _of_context(self, context: int, ceiling: int) -> Allowance | None:
        total, prompts = self._total(context), self._prompts(context)
        if not prompts and total < ceiling:
            is_named = context < ceiling and self.blames_ceiling
            return Allowance(context, context=context, of_context=True) if is_named else None
        room = context - (sum(prompts) if prompts else total - ceiling)
        if room >= ceiling:
            return None
        stopped = sum(prompts) == self._prompt_limit + 1  # vLLM reads one token more than fits beside the answer
        return Allowance(max(0, room), context=context if context == self._context else 0, at_most=stopped)


def _values(pattern: re.Pattern[str], text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in pattern.findall(text)]


def _without_quotation(quoted: re.Match[str]) -> str:
    """Return a space for quoted words, except for an error's message; a single quoted word is a field's name."""
    words, before = quoted[2], quoted.string[max(0, quoted.start() - 24) : quoted.start()]
    if len(words.split()) == 1 or _MESSAGE_KEY.search(before.lower()):
        return quoted[0]
    return " "
