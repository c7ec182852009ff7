"""The README's clients, configurations and policy run, and do what it says."""

from __future__ import annotations

import ast
import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import blocks, modules
from places import NODE, README, ROOT
from process import Program, environment, program
from records import make_record

from examples import example
from policies.api.policy import Policy
from policies.testing import ScriptedUpstream, make_call, serve
from sidecar.config.loader import load
from sidecar.config.settings import Flags

PYTHON, SHELL, TOML, JS = (blocks(README, language) for language in ("python", "sh", "toml", "js"))
MODEL = "gpt-4o-mini"
"""The model of the README's clients."""
POLICY = next(block for block in PYTHON if "class HouseRules" in block)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with program("demo", "--port", "0", folder=tmp_path_factory.mktemp("demo")) as running:
        yield running


def here(block: str, demo: Program) -> str:
    """Return *block* for the demo: with its address, and its model in place of the one that the reader replaces."""
    return block.replace("http://127.0.0.1:8787", demo.url).replace(MODEL, "mock-5-0-0")


def test_readme_python_client_prints_an_answer(demo: Program) -> None:
    """The README's Python client prints an answer."""
    code = here(next(block for block in PYTHON if "from openai" in block), demo)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + "\nstream.close()\nclient.close()"],
        capture_output=True, text=True, check=True, env=environment(), timeout=60,
    )  # fmt: skip
    assert done.stdout == " tok0 tok1 tok2 tok3 tok4"


def test_readme_node_client_prints_an_answer(demo: Program, tmp_path: Path) -> None:
    """The README's client for Node prints an answer."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("Node is not installed")
    subprocess.run([npm, "install", "--silent"], cwd=NODE, check=True, timeout=300)
    script = tmp_path / "client.mjs"
    script.write_text(here(JS[0], demo))
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    done = subprocess.run([node, str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == " tok0 tok1 tok2 tok3 tok4\n"


def test_readme_curl_lines_stream(demo: Program) -> None:
    """The README's curl lines stream what they say."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    seen = [
        subprocess.run(
            ["sh", "-c", "curl -s " + here(block, demo)[5:]], capture_output=True, check=True, timeout=60
        ).stdout
        for block in SHELL
        if block.startswith("curl")
    ]
    assert seen[0].startswith(b'event: start\ndata: \n\nevent: token\ndata: " tok0"\n\n')
    assert seen[0].endswith(b"event: done\ndata: \n\n")
    assert seen[1].endswith(b"data: [DONE]\n\n")


def test_first_commands() -> None:
    """The README begins with two commands: one that starts a demo, and one that sends a request to it."""
    assert SHELL[0] == "make demo\n"
    assert SHELL[1].startswith("curl -N http://127.0.0.1:8787/api/chat ")


@pytest.mark.parametrize(
    ("part", "policies", "profiles", "keys"),
    [
        ("[profile.guest]", ["rate", "day", "minute", "retry"], ["guest"], 0),
        ("[[key]]", ["budget", "money", "rate"], [], 1),
    ],
)
def test_readme_configurations_are_valid(
    tmp_path: Path, part: str, policies: list[str], profiles: list[str], keys: int
) -> None:
    """The README's configurations are valid."""
    (block,) = (block for block in TOML if part in block)
    (tmp_path / "s.toml").write_text(block.replace("the hash that sidecar key new printed", "0" * 64))
    settings = load(tmp_path / "s.toml", environ={}, flags=Flags(upstream="http://127.0.0.1:8000/v1"))
    assert [policy.name for policy in settings.base.policies] == policies
    assert (list(settings.profiles), len(settings.keys)) == (profiles, keys)


def test_policy_is_short() -> None:
    """The README's policy is ten lines, and the example file is the same."""
    assert len([line for line in POLICY.splitlines() if line]) <= 10
    assert (ROOT / "examples" / "house_rules.py").read_text().split('"""\n\n', 1)[1] == POLICY


@pytest.mark.anyio
async def test_readme_policy_rejects_and_rewrites(tmp_path: Path) -> None:
    """The README's policy, in a file outside the packages, is loaded from TOML, and rejects and rewrites calls."""
    from serving import events, sidecar
    from wire import Client

    (tmp_path / "house_rules.py").write_text(POLICY)
    block = next(block for block in TOML if "house_rules" in block)
    (tmp_path / "s.toml").write_text(block.replace(MODEL, "mock-3-0-0"))
    with program("mock", "--port", "0", folder=tmp_path) as mock:
        arguments = ("serve", "--config", "s.toml", "--upstream", mock.url, "--port", "0")
        with program(*arguments, folder=tmp_path) as served:
            client = await Client.to(served.port)
            await client.post("/api/chat", {"messages": [{"role": "user", "content": "My PASSWORD is x"}]})
            status, _, body = await client.answer()
            assert (status, json.loads(body)) == (
                400,
                {"error": "Please ask about something else.", "code": "house_rules"},
            )
            await client.post("/api/chat", {"messages": [{"role": "user", "content": "hi"}]})
            _, _, body = await client.answer()
            client.close()
    assert [data for name, data in events(body) if name == "token"] == ['" tok0"', '" tok1"', '" tok2"']
    assert sidecar is not None


@pytest.mark.anyio
async def test_readme_test_of_the_policy_passes() -> None:
    """The README's test of the policy passes."""
    code = next(block for block in PYTHON if "policies.testing" in block)
    wrapped = "async def check():\n" + "".join(f"    {line}\n" for line in code.splitlines())
    names: dict[str, Any] = {}
    exec(compile(ast.parse(POLICY + "\n" + wrapped), "README", "exec"), names)  # noqa: S102  # the code of this checkout
    await names["check"]()


@pytest.mark.anyio
async def test_lease_example_stops_at_its_word(caplog: pytest.LogCaptureFixture) -> None:
    """The example with a lease stops an answer at its word, also if it is split over two events, and logs the cost."""
    caplog.set_level("INFO")
    policy: Policy = example("quota_notice").QuotaNotice(word="secret", name="q")
    upstream = ScriptedUpstream(["the ", "sec", "ret", " is out"])
    served = await serve([policy], make_call("hi"), upstream)

    assert served.text == "the sec"
    assert served.batches[-1].events[-1].finish == "content_filter"
    assert "default: done after 1 attempts" in caplog.text


def test_observer_example_reports_slow_calls(caplog: pytest.LogCaptureFixture) -> None:
    """The observer of docs/operations.md reports a slow first output, and no other request."""
    names: dict[str, Any] = {"__name__": "slow_answers"}
    code = modules(ROOT / "docs" / "operations.md")["slow_answers.py"]
    exec(compile(code, "docs/operations.md", "exec"), names)  # noqa: S102  # our own document
    observer = names["SlowAnswers"](seconds=5.0)
    for name, seconds in (("fast", 0.2), ("slow", 7.0), ("none", None)):
        observer.observe(make_record(request_id=name, upstream="local", first_output_seconds=seconds))

    assert [each.message for each in caplog.records] == ["slow answer: slow by local"]


def test_public_names_are_documented() -> None:
    """Every public class and function of both packages has a docstring with a first line of its own."""
    missing = []
    for path in [*(ROOT / "policies").rglob("*.py"), *(ROOT / "sidecar").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        missing += [
            f"{path.name}: {node.name}"
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]
    assert missing == []
    assert asyncio.iscoroutinefunction(serve)
