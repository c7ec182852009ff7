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


def python(name: str, script: str, interpreter: str = CLIENTS_PYTHON) -> Client:
    return Client(name, (interpreter and str(Path(interpreter).absolute()), str(HERE / "python" / script)))


def node(name: str, script: str, *arguments: str) -> Client:
    return Client(name, (NODE, str(HERE / "node" / script), *arguments))


CLIENTS = (
    python("openai", "openai_sdk.py"),
    python("openai of the sidecar", "openai_sdk.py", sys.executable),
    python("langchain-openai", "langchain_chat.py"),
    python("llama-index-llms-openai-like", "llama_index_chat.py"),
    python("pydantic-ai-slim", "pydantic_ai_agent.py"),
    python("litellm", "litellm_chat.py"),
    python("instructor", "instructor_chat.py"),
    node("openai for Node", "openai_sdk.mjs"),
    node("@ai-sdk/openai", "ai_sdk.mjs", "@ai-sdk/openai"),
    node("@ai-sdk/openai-compatible", "ai_sdk.mjs", "@ai-sdk/openai-compatible"),
)


def missing(client: Client) -> str:
    """Return why *client* cannot run, empty if it can."""
    program, script = client.command[:2]
    if script.endswith(".mjs"):
        if not program:
            return "Node is not installed: the npm clients are skipped"
        return "" if (HERE / "node" / "node_modules").is_dir() else "npm is not installed: the npm clients are skipped"
    return "" if program else "CLIENTS_PYTHON names no interpreter: `make test-clients` sets it"
