"""The summary that follows the first line of the start."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from process import program
from serving import settings_of

from sidecar.config.loader import load
from sidecar.config.settings import Flags, StoreSettings
from sidecar.config.summary import summary

HERE = "http://127.0.0.1:1/v1"
NO_LIMIT = "warning: no rate and no budget policy is active: calls have no limit"
PROFILE_CHANGES = "trim.max_messages = {}, max_tokens.output = {}, max_tokens.request = {}, budget.tokens = {}_000"
RATE = '[[policy]]\nuse = "rate"\nrequests = 5\n'


def lines(folder: Path, text: str) -> list[str]:
    return summary(settings_of(folder, HERE, text)).splitlines()


def warnings(folder: Path, text: str) -> list[str]:
    return [line for line in lines(folder, text) if line.startswith("warning")]


def test_shipped_settings(tmp_path: Path) -> None:
    """The shipped settings: upstream, store, each policy with its limits as the file writes them, profiles and keys."""
    settings = load(None, environ={}, flags=Flags(upstream=HERE, model="m", workers=2))
    printed = summary(msgspec.structs.replace(settings, folder=tmp_path))

    assert printed.splitlines() == [
        "upstream  upstream-1: http://127.0.0.1:1/v1, model m",
        f"store     sqlite:///{tmp_path}/sidecar.db",
        'chain     rate: requests = 60, window = 60, by = "tenant"',
        '          trim: max_messages = 20, only = { path = "/api/chat" }',
        '          max_tokens: output = 4_096, request = 16_000, only = { path = "/api/chat" }',
        '          budget: tokens = 500_000, window = "day", by = "tenant"',
        "          fallback",
        "          retry: attempts = 3",
        f"profiles  balanced: rate.requests = 30, {PROFILE_CHANGES.format(6, 400, '2_048', 70)}, temperature = 0.7",
        f"          constrained: rate.requests = 15, {PROFILE_CHANGES.format(4, 150, '2_048', 30)}, temperature = 0.5",
        f"          expanded: {PROFILE_CHANGES.format(12, '3_000', '12_000', 200)}, temperature = 0.8",
        "keys      none: all callers are tenant default",
        "workers   2",
    ]


def test_routing_of_several_upstreams(tmp_path: Path) -> None:
    """Of several upstreams each line says what it serves, and with which weight; of one alone it does not."""
    tables = [
        "serves = ['llama-*', 'qwen']\nweight = 3\n",
        "models = { chat = 'm' }\n",
        f"serves = {[f'm{at}' for at in range(20)]}\n",
    ]
    tables = [f"[[upstream]]\nbase_url = '{HERE}'\n{each}" for each in tables]
    several = summary(settings_of(tmp_path, None, "".join(tables))).splitlines()[:3]
    (alone, *_) = summary(settings_of(tmp_path, None, tables[0])).splitlines()

    assert several == [
        f"upstream  upstream-1: {HERE}, serves llama-*, qwen, weight 3",
        f"          upstream-2: {HERE}, serves chat, what it lists",
        f"          upstream-3: {HERE}, serves m0, m1, m2, m3, m4, m5, m6, m7, and 12 more",
    ]
    assert alone == f"upstream  upstream-1: {HERE}"


def test_no_limit(tmp_path: Path) -> None:
    """A chain without a limit over several calls is warned of."""
    assert warnings(tmp_path, 'policy = []\n[store]\nurl = "memory://"') == [NO_LIMIT]
    assert warnings(tmp_path, '[[policy]]\nuse = "retry"\n') == [NO_LIMIT]
    assert warnings(tmp_path, RATE) == []


def test_own_policies_may_limit(tmp_path: Path) -> None:
    """Where only policies of the deployment can refuse calls, the warning names them instead of claiming no limit."""
    (tmp_path / "own_summary_y.py").write_text(
        "from policies import Call, Policy\n\n\nclass Gate(Policy, frozen=True):\n"
        "    async def admit(self, call: Call) -> None: ...\n"
    )
    gate = '[[policy]]\nuse = "own_summary_y:Gate"\nname = "door"\n'
    (printed,) = warnings(tmp_path, gate)
    assert printed.endswith("only your own policies can limit calls (door)")
    assert warnings(tmp_path, gate + RATE) == []


def test_profiles_and_keys(tmp_path: Path) -> None:
    """Profiles are listed with what they change, at most eight of them; keys with limits of their own are counted."""
    hashed = f'sha256 = "{"0" * 64}"'
    text = f'[[key]]\ntenant = "a"\n{hashed}\nlimits = {{ rate = {{ requests = 9 }} }}\n{RATE}[profile.p0]\n'
    text += "".join(f"[profile.p{at}]\nrate = {{ requests = {at} }}\n" for at in range(1, 6))
    printed = lines(tmp_path, text)
    assert printed[printed.index("profiles  p0: as the chain") + 1] == "          p1: rate.requests = 1"
    assert "keys      1 of 1 tenant, 1 with limits of its own" in printed

    text += "".join(f"[profile.q{at}]\ntemperature = 1\n" for at in range(4))
    assert "          and 2 more" in lines(tmp_path, text)


def test_shipped_chain_among_own_policies(tmp_path: Path) -> None:
    """The chain that `use = "defaults"` stands for is listed policy by policy."""
    printed = lines(tmp_path, '[[policy]]\nuse = "defaults"\n' + RATE + 'name = "burst"\n')
    at = printed.index('chain     rate: requests = 60, window = 60, by = "tenant"')
    assert printed[at + 6] == '          burst: requests = 5, window = 60, by = "tenant"'


def test_limit_of_some_calls(tmp_path: Path) -> None:
    """A chain whose limits leave some calls out is warned of."""
    (printed,) = warnings(tmp_path, RATE + 'only = { path = "/api/chat" }\n')
    assert printed.startswith("warning: the rate and budget policies apply only to some calls, by `only` or ")


def test_warned_once(tmp_path: Path) -> None:
    """Keys that share a chain without a limit give one warning, and are counted with their tenants."""
    keys = "".join(f'[[key]]\ntenant = "{tenant}"\nsha256 = "{digit * 64}"\n' for tenant, digit in ("a1", "a2", "b3"))
    printed = lines(tmp_path, f'{keys}[[policy]]\nuse = "retry"\n')
    assert [line for line in printed if line.startswith(("keys", "warning"))] == ["keys      3 of 2 tenants", NO_LIMIT]


def test_no_secrets(tmp_path: Path) -> None:
    """No key, header, query, password, or option of the user's own policies is in the summary."""
    (tmp_path / "own_summary_x.py").write_text(
        "from typing import ClassVar\n\nfrom policies import Policy\n\n\nclass Own(Policy, frozen=True):\n"
        "    token: str\n    most: int = 7\n\n    tightened_by_profiles: ClassVar[tuple[str, ...]] = ('most', 'token')\n\n"
        "    async def admit(self, call: object) -> None: ...\n"
    )
    text = (
        '[[upstream]]\nbase_url = "https://h/v1"\napi_key_env = "KEY"\nheaders = { x-a = "SECRET-1" }\n'
        'headers_env = { x-b = "B" }\nquery = { sig = "SECRET-2" }\n'
        '[[policy]]\nuse = "own_summary_x:Own"\nname = "mine"\ntoken = "SECRET-3"\n'
    )
    environ = {"KEY": "SECRET-4", "B": "SECRET-5"}
    settings = settings_of(tmp_path, None, text, environ=environ)
    store = StoreSettings("rediss://user:SECRET-6@redis.example:6379/0?prefix=SECRET-7")
    printed = summary(msgspec.structs.replace(settings, store=store))

    assert "SECRET" not in printed
    assert "store     rediss://redis.example:6379/0\n" in printed
    assert "chain     mine (Own): most = 7\n" in printed


@pytest.mark.anyio
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_printed_once(tmp_path: Path, workers: str) -> None:
    """The summary follows the first line on stdout, once, whatever the number of workers."""
    serve = ("serve", "--upstream", HERE, "--port", "0", "--workers", workers)
    with program(*serve, folder=tmp_path) as running:
        assert running.stop() == 0
        assert running.popen.stdout is not None
        rest = running.popen.stdout.read().splitlines()

    assert running.line.startswith("sidecar listening on http://127.0.0.1:")
    assert [line.split()[0] for line in rest if not line.startswith(" ")] == [
        "upstream", "store", "chain", "profiles", "keys", *(["workers"] if workers == "2" else []),
    ]  # fmt: skip


def test_limit_that_exempts_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit whose `admit` may return no lease is not counted as a limit of all calls."""
    module = f"exempting_{tmp_path.name.replace('-', '_')}"
    text = "from policies import Rate\nclass Exempting(Rate, frozen=True):\n    admit_returns_lease = False\n"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    (printed,) = warnings(tmp_path, f'[[policy]]\nuse = "{module}:Exempting"\nrequests = 5\n')
    assert "apply only to some calls" in printed
