"""`[server] passthrough`: what may be relayed, what needs a budget, and what is refused, with its key path."""

from __future__ import annotations

from pathlib import Path

import pytest
from api_keys import key
from checked_files import lines, loaded
from engine_routes import ENGINES

from sidecar.config.relay.known_routes import SERVED_ROUTES, RouteKind, facts_of, served_by_sidecar
from sidecar.config.summary import summary
from sidecar.server.app import DATA_ROUTES
from sidecar.wire.relay.path_pattern import PathPattern

RATE = '[[policy]]\nuse = "rate"\nrequests = 9\n'
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 9_000\n'
GENERATING = sorted({path for engine in ENGINES for path in engine.generating.split()})
REFUSED = sorted({path for engine in ENGINES for path in engine.refused.split()})
HARMLESS = sorted({path for engine in ENGINES for path in engine.harmless.split()})


def entry(path: str, more: str = "") -> str:
    return f'[server]\npassthrough = [{{ path = "{path}"{more} }}]\n'


def only(folder: Path, text: str) -> str:
    (line,) = lines(folder, text)
    return line


def spellings(path: str) -> list[str]:
    """Return other paths under which servers may have the same route."""
    bare = "/" + path.removeprefix("/v1/").removeprefix("/api/").removeprefix("/")
    return [path, bare.upper().replace("{ID}", "{id}"), f"/v1{bare}", f"/api{bare}", f"/openai/v1{bare}", f"/v2{bare}"]


@pytest.mark.parametrize("path", GENERATING)
def test_generating_routes_need_a_budget(tmp_path: Path, path: str) -> None:
    """Each route that can generate is refused without `tokens_each`, and without a budget for it, under any prefix."""
    for spelling in spellings(path):
        if served_by_sidecar(PathPattern.parse(spelling).segments):
            continue
        for text in (f'[server]\npassthrough = ["{spelling}"]\n', entry(spelling, ", generates = false")):
            assert "needs a budget that bounds it" in only(tmp_path, text), spelling
        unbounded = only(tmp_path, entry(spelling, ", tokens_each = 5") + RATE)
        assert "no budget covers every call" in unbounded, spelling
        assert loaded(tmp_path, entry(spelling, ", tokens_each = 5") + BUDGET).passthrough[0].tokens_each == 5


@pytest.mark.parametrize("path", REFUSED)
def test_routes_that_change_or_bypass_are_refused(tmp_path: Path, path: str) -> None:
    """Routes that manage a server, run later or hand out keys are never relayed, whatever bounds them."""
    for spelling in spellings(path):
        line = only(tmp_path, entry(spelling, ", tokens_each = 5") + BUDGET)
        assert "is not relayed: " in line or "is served as" in line, spelling
        assert line.startswith("F: server.passthrough[0]: ")


@pytest.mark.parametrize("path", HARMLESS)
def test_harmless_routes_need_nothing(tmp_path: Path, path: str) -> None:
    """Routes that are known to generate nothing are opened by their name alone."""
    (route,) = loaded(tmp_path, f'[server]\npassthrough = ["{path}"]\n' + RATE).passthrough
    assert (route.methods, route.tokens_each) == (("POST",), 0)


def test_unknown_routes_need_a_decision(tmp_path: Path) -> None:
    """A route that is not known may generate: it needs `tokens_each`, or the operator's `generates = false`."""
    line = only(tmp_path, '[server]\npassthrough = ["/v1/magic"]\n')
    assert line == (
        "F: server.passthrough[0]: '/v1/magic' needs a budget that bounds it: it is not known, so it may generate; "
        "set `tokens_each` to the tokens that a budget charges for each call, or `generates = false` if it cannot"
    )
    assert loaded(tmp_path, entry("/v1/magic", ", generates = false")).passthrough[0].methods == ("POST",)
    assert "`generates` is true" in only(tmp_path, entry("/v1/magic", ", generates = true"))
    assert "no effect beside" in only(tmp_path, entry("/v1/magic", ", generates = false, tokens_each = 5"))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/v1/chat/completions", "is served as '/v1/chat/completions'"),
        ("/api/chat", "is served as '/api/chat'"),
        ("/v1/responses/{id}/cancel", "is served as '/v1/responses/*'"),
        ("/v1/{x}", "is served as"),
        ("/{x}", "is served as '/healthz'"),
        ("/api/{x}", "is served as '/api/chat'"),
        ("/v1/{x}/{y}", "is served as"),
        ("/openai/{x}", "names no route"),
        ("/v2/{x}/{y}", "names no route"),
        ("/v1", "names no route"),
        ("/", "has the segment ''"),
        ("/v1//rerank", "has the segment ''"),
        ("/v1/rerank/", "has the segment ''"),
        ("/v1/../rerank", "has the segment '..'"),
        ("/v1/re%72ank", "has the segment 're%72ank'"),
        ("/v1/rerank?x", "has the segment 'rerank?x'"),
        ("/v1/a b", "has the segment 'a b'"),
        ("/v1/files/{}", "has the segment '{}'"),
        ("/v1/models:load", "has the segment 'models:load'"),
        ("v1/rerank", "does not begin with a slash"),
        ("/" + "a/" * 20 + "b", "has more than"),
    ],
)
def test_paths_that_are_served_or_ambiguous_are_refused(tmp_path: Path, path: str, problem: str) -> None:
    """A path of the sidecar's own, one that could stand for any route, and one with unusual segments are faults."""
    line = only(tmp_path, f'[server]\npassthrough = ["{path}"]\n')
    assert line.startswith("F: server.passthrough[0]: ")
    assert problem in line


@pytest.mark.parametrize(
    "path",
    ["/llama/completion", "/llama/v1/chat/completions", "/upstream/{model}/v1/chat/completions", "/proxy/audio/speech"],
)
def test_generating_routes_below_other_prefixes_need_a_budget(tmp_path: Path, path: str) -> None:
    """A path that ends like a route which generates needs a budget: servers have options for a prefix of all routes."""
    assert "needs a budget that bounds it: it can generate" in only(tmp_path, entry(path, ", generates = false"))
    assert loaded(tmp_path, entry(path, ", tokens_each = 5") + BUDGET).passthrough[0].tokens_each == 5


@pytest.mark.parametrize(
    "path", ["/openai/v1/responses/{id}", "/responses/{id}/cancel", "/openai/v1/chat/completions/{id}/messages"]
)
def test_stored_answers_are_not_relayed_past_their_owners(tmp_path: Path, path: str) -> None:
    """Stored answers under another prefix than `/v1` are never relayed: there the sidecar does not check their tenant."""
    assert "is not relayed: it shows or continues requests" in only(tmp_path, entry(path, ", generates = false"))


def test_ids_count_as_the_worst_route_that_they_can_stand_for(tmp_path: Path) -> None:
    """A named segment may not stand for a known route that generates or manages."""
    assert "needs a budget" in only(tmp_path, entry("/v1/audio/{kind}"))
    assert "needs a budget" in only(tmp_path, entry("/v1/files/{id}/{what}"))
    assert facts_of(("slots", None)).kind is RouteKind.REFUSED
    assert facts_of(("chat", None, None)).kind is RouteKind.REFUSED


@pytest.mark.parametrize(
    ("policies", "is_bounded"),
    [
        (BUDGET, True),
        (BUDGET + 'only = { path = "/v1/audio/*" }\n', True),
        (BUDGET + 'only = { path = ["/x", "/v1/audio/speech"] }\n', True),
        (BUDGET + 'only = { path = "/v1/chat/*" }\n', False),
        (BUDGET + 'only = { model = "tts-1" }\n', False),
        (BUDGET + 'only = { tenant = "other" }\n', False),
        (BUDGET + 'only = { tenant = "default" }\n', True),
        ('[[policy]]\nuse = "budget"\nusd = 1.0\n[prices.a]\ninput = 1\noutput = 1\n', True),
        ('[[policy]]\nuse = "defaults"\n', True),
        (RATE, False),
    ],
)
def test_budget_must_cover_every_call(tmp_path: Path, policies: str, is_bounded: bool) -> None:  # noqa: FBT001
    """A budget for other paths, tenants or single models does not bound a route."""
    text = entry("/v1/audio/speech", ", tokens_each = 5") + policies
    if is_bounded:
        assert loaded(tmp_path, text).passthrough
    else:
        assert "no budget covers every call of '/v1/audio/speech' in the chain" in only(tmp_path, text)


def test_each_tenant_needs_a_budget(tmp_path: Path) -> None:
    """With keys, every tenant's chain must have a budget; several may share the work."""
    text = entry("/v1/audio/speech", ", tokens_each = 5")
    text += BUDGET + 'only = { tenant = "a" }\n'
    other = BUDGET.replace("budget", "budget", 1) + 'name = "second"\nonly = { tenant = "b*" }\n'
    keys = key("k", "a") + key("l", "b1")
    assert "no budget covers" in only(tmp_path, text + keys)
    assert loaded(tmp_path, text + other + keys).passthrough


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[5]", "server.passthrough[0]: invalid value 5: expected a string or a table; see `sidecar config` for an example"),
        ('["/v1/rerank", "/v1/rerank"]', "server.passthrough[1]: the same paths as server.passthrough[0]; remove one of the two"),
        ('["/v1/files/{a}", { path = "/v1/files/{b}" }]', "server.passthrough[1]: the same paths as server.passthrough[0]; remove one of the two"),
        ('[{ path = "/v1/rerank", method = ["GET"] }]', "server.passthrough[0].method: unknown key; did you mean 'methods'?"),
        ('[{ path = "/v1/rerank", methods = ["HEAD"] }]', "server.passthrough[0].methods[0]: invalid value 'HEAD': expected one of GET, POST, PUT, PATCH, DELETE; see `sidecar config` for an example"),
        ('[{ path = "/v1/rerank", methods = ["DELETE"] }]', "server.passthrough[0]: DELETE /v1/rerank is not known to be harmless; use POST, or set `generates = false`"),
        ('[{ path = "/props", methods = ["POST"] }]', "server.passthrough[0]: POST /props is not known to be harmless; use GET, or set `generates = false`"),
        ('[{ path = "/v1/rerank", upstream = "x" }]', "server.passthrough[0].upstream: unknown upstream 'x'; use one of 'upstream-1'"),
        ('[{ path = "/v1/rerank", tokens_each = 0 }]', "server.passthrough[0].tokens_each: invalid value 0: expected a whole number >= 1; see `sidecar config` for an example"),
        ('[{ methods = ["GET"] }]', "server.passthrough[0].path: required key is missing; set it to a string"),
        ("[" + ", ".join(f'{{ path = "/r{at}", generates = false }}' for at in range(65)) + "]", "server.passthrough: has 65 routes; name at most 64"),
    ],
)  # fmt: skip
def test_faults_have_their_key_path(tmp_path: Path, text: str, line: str) -> None:
    """Each fault of an entry is reported with its key path and its cure."""
    assert only(tmp_path, f"[server]\npassthrough = {text}\n") == f"F: {line}"


def test_own_routes_are_known() -> None:
    """Each route that the sidecar serves is one that cannot be relayed."""
    for path in DATA_ROUTES:
        assert served_by_sidecar(path.replace("{id}", "x").split("/")[1:]), path
    assert all(path.startswith("/") for path in SERVED_ROUTES)


def test_summary_warns_of_routes_without_a_key(tmp_path: Path) -> None:
    """The summary lists the routes, and warns of those outside of `/v1` and of those that tenants share."""
    text = '[server]\npassthrough = ["/tokenize", "/v1/files"]\n' + RATE + key("k", "a") + key("l", "b")
    shown = summary(loaded(tmp_path, text))
    assert "relayed   POST /tokenize\n          GET POST /v1/files\n" in shown
    assert "warning: passthrough /tokenize: outside of /v1 some servers check no key" in shown
    assert "warning: passthrough /v1/files: all tenants share what is stored" in shown
    alone = summary(loaded(tmp_path, '[server]\npassthrough = ["/v1/files"]\n' + RATE))
    assert "warning: passthrough" not in alone
