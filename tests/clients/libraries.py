"""The client libraries: how each is started, and why one cannot be."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from sides import Client

HERE = Path(__file__).parent
CLIENTS_PYTHON = os.environ.get("CLIENTS_PYTHON", "")
NODE = shutil.which("node") or ""


def python(name: str, script: str, interpreter: str = CLIENTS_PYTHON, *, retries_itself: bool = False) -> Client:
    program = interpreter and str(Path(interpreter).absolute())
    return Client(name, (program, str(HERE / "python" / script)), retries_itself)


def node(name: str, script: str, *arguments: str, retries_itself: bool = False) -> Client:
    return Client(name, (NODE, str(HERE / "node" / script), *arguments), retries_itself)


CLIENTS = (
    python("openai", "openai_sdk.py"),
    python("openai of the sidecar", "openai_sdk.py", sys.executable),
    python("langchain-openai", "langchain_chat.py"),
    python("llama-index-llms-openai-like", "llama_index_chat.py", retries_itself=True),
    python("pydantic-ai-slim", "pydantic_ai_agent.py"),
    python("litellm", "litellm_chat.py"),
    python("instructor", "instructor_chat.py"),
    node("openai for Node", "openai_sdk.mjs"),
    node("@ai-sdk/openai", "ai_sdk.mjs", "@ai-sdk/openai", retries_itself=True),
    node("@ai-sdk/openai-compatible", "ai_sdk.mjs", "@ai-sdk/openai-compatible", retries_itself=True),
)


def missing(client: Client) -> str:
    """Return why *client* cannot run, empty if it can."""
    program, script = client.command[:2]
    if script.endswith(".mjs"):
        if not program:
            return "Node is not installed: the npm clients are skipped"
        ready = (HERE / "node" / "node_modules" / ".ready").exists()
        return "" if ready else "node_modules is missing: `make test-clients` installs the npm clients, if npm is there"
    return "" if program else "CLIENTS_PYTHON names no interpreter: `make test-clients` sets it"
