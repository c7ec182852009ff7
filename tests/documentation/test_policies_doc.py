"""docs/policies.md and the examples: their code runs, and does what the text says."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from typing import Any

import pytest
from places import ROOT
from wire import eventually

import policies
from examples import example
from policies import Chain, Policy
from policies.testing import Hang, ScriptedUpstream, Served, make_call, make_services, serve

pytestmark = pytest.mark.anyio

TEXT = (ROOT / "docs" / "policies.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


async def test_code_blocks_run() -> None:
    """The code blocks run one after the other, as in one file; the last one tests what the others define."""
    names: dict[str, Any] = {"__name__": "docs"}
    for block in BLOCKS:
        result = eval(compile(block, "docs/policies.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)  # noqa: S307  # the code of this checkout
        if inspect.isawaitable(result):
            await result
    assert "redacted" in names


def test_first_policy_has_ten_lines() -> None:
    """The first policy has ten lines, and is the one of the README and of the examples."""
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 10
    assert BLOCKS[0] in (ROOT / "README.md").read_text()
    assert BLOCKS[0] in (ROOT / "examples" / "house_rules.py").read_text()


@pytest.mark.parametrize("name", ["image_limit", "concurrency"])
def test_examples_are_those_of_the_document(name: str) -> None:
    """The document shows the policies of the examples."""
    source = (ROOT / "examples" / f"{name}.py").read_text()
    policy = re.search(r"^class \w+\(Policy.*?(?=\n\n\n|\Z)", source, re.MULTILINE | re.DOTALL)
    assert policy is not None
    assert policy[0].strip() in TEXT


def test_documented_names_exist() -> None:
    """The tables name existing attributes of `Call`, and all fields of `Outcome`."""
    table = TEXT.split("| attribute | meaning |")[1].split("\n\n")[0]
    names = {
        name for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for name in re.findall(r"`([a-z_]+)", row)
    }
    assert names
    assert all(hasattr(policies.Call, name) for name in names)
    fields = TEXT.split("| field of `Outcome` | meaning |")[1].split("\n\n")[0]
    names = {
        name for row in re.findall(r"^\| (.+?) \|", fields, re.MULTILINE) for name in re.findall(r"`([a-z_]+)", row)
    }
    assert names == set(policies.Outcome.__struct_fields__)


async def test_image_limit_counts_images_of_a_user() -> None:
    """The example counts the images of an end user, and lets calls without images pass."""
    limit: Policy = example("image_limit").ImageLimit(name="images", per_day=2)
    services = make_services()

    async def asks(images: int, user: str) -> Served:
        parts = [{"type": "image_url", "image_url": {"url": "data:"}}] * images
        body = {"user": user}
        messages = [{"role": "user", "content": parts or "hi"}]
        return await serve([limit], make_call(messages=messages, services=services, body=body))

    assert (await asks(2, "ann")).rejection is None
    refused = (await asks(1, "ann")).rejection
    assert refused is not None
    assert refused.details["used"] == 2
    assert (await asks(1, "bob")).rejection is None
    assert (await asks(0, "ann")).rejection is None


async def test_concurrency_queues_and_refuses() -> None:
    """The example runs `limit` calls over all chains, queues `queue` more, refuses the rest, and reuses released slots."""
    concurrency: Policy = example("concurrency").Concurrency(name="slots", limit=1, queue=1)
    services = make_services()
    first, second = Hang(), Hang()
    upstream = ScriptedUpstream([first], [second])
    chains = [Chain([concurrency], upstream, services) for _ in range(2)]

    def starts(chain: Chain) -> asyncio.Task[Served]:
        return asyncio.create_task(serve([], make_call("hi", services=services), chain=chain))

    runs = starts(chains[0])
    await first.reached.wait()
    waits = starts(chains[1])
    await asyncio.sleep(0)
    refused = await starts(chains[0])
    assert refused.rejection is not None
    assert (refused.rejection.code, len(upstream.calls)) == ("queue_full", 1)

    runs.cancel()
    await eventually(second.reached.is_set)
    waits.cancel()
    await asyncio.wait([runs, waits])
    for chain in chains:
        await chain.close()


async def test_cancelled_call_leaves_the_queue() -> None:
    """A call that is cancelled while it waits leaves the queue, and no slot is lost."""
    concurrency: Policy = example("concurrency").Concurrency(name="slots", limit=1, queue=1)
    services = make_services()
    hang = Hang()
    chain = Chain([concurrency], ScriptedUpstream([hang], ["ok"]), services)
    runs = asyncio.create_task(serve([], make_call("hi", services=services), chain=chain))
    await hang.reached.wait()
    for _ in range(3):
        waits = asyncio.create_task(serve([], make_call("hi", services=services), chain=chain))
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.wait([waits])
    runs.cancel()
    await asyncio.wait([runs])

    assert (await serve([], make_call("hi", services=services), chain=chain)).text == "ok"
