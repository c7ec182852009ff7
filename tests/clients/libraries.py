"""The client libraries: how each is started, which cases it runs, and why one cannot be started."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from case import Case
from cases import (
    CHAT_CASES,
    CLAUDE_CODE_CASES,
    COMPLETIONS_CASES,
    COMPLETIONS_SDK_CASES,
    EMBEDDINGS_CASES,
    EMBEDDINGS_SDK_CASES,
    MESSAGES_CASES,
    RESPONSES_CASES,
    RESPONSES_SDK_CASES,
)
from sides import Client

HERE = Path(__file__).parent
CLIENTS_PYTHON = os.environ.get("CLIENTS_PYTHON", "")
AGENTS_PYTHON = os.environ.get("AGENTS_PYTHON", "")
"""The interpreter with the libraries that need other versions than the first: `openai-agents` needs openai 3."""
OWN_PYTHON = sys.executable
NODE = shutil.which("node") or ""


def python(
    name: str,
    script: str,
    *arguments: str,
    cases: tuple[Case, ...] = CHAT_CASES,
    interpreter: str = CLIENTS_PYTHON,
    retries_itself: bool = False,
) -> Client:
    """Return a client of a script in `python/`; *arguments* come before the base URL."""
    program = interpreter and str(Path(interpreter).absolute())
    return Client(name, (program, str(HERE / "python" / script), *arguments), cases, retries_itself)


def node(
    name: str, script: str, *arguments: str, cases: tuple[Case, ...] = CHAT_CASES, retries_itself: bool = False
) -> Client:
    """Return a client of a script in `node/`; *arguments* come before the base URL."""
    return Client(name, (NODE, str(HERE / "node" / script), *arguments), cases, retries_itself)


CLIENTS = (
    python("openai", "openai_sdk.py"),
    python("openai of the sidecar", "openai_sdk.py", interpreter=OWN_PYTHON),
    python("langchain-openai", "langchain_chat.py"),
    python("llama-index-llms-openai-like", "llama_index_chat.py", retries_itself=True),
    python("pydantic-ai-slim", "pydantic_ai_agent.py"),
    python("litellm", "litellm_chat.py"),
    python("instructor", "instructor_chat.py"),
    node("openai for Node", "openai_sdk.mjs"),
    node("@ai-sdk/openai", "ai_sdk.mjs", "@ai-sdk/openai", retries_itself=True),
    node("@ai-sdk/openai-compatible", "ai_sdk.mjs", "@ai-sdk/openai-compatible", retries_itself=True),
    python("openai, Responses", "openai_responses.py", cases=RESPONSES_SDK_CASES),
    python(
        "openai of the sidecar, Responses",
        "openai_responses.py",
        cases=RESPONSES_SDK_CASES,
        interpreter=OWN_PYTHON,
    ),
    node("openai for Node, Responses", "openai_responses.mjs", cases=RESPONSES_SDK_CASES),
    python("openai-agents by default", "agents_sdk.py", cases=RESPONSES_CASES, interpreter=AGENTS_PYTHON),
    node(
        "@ai-sdk/openai by default",
        "ai_sdk.mjs",
        "@ai-sdk/openai",
        "responses",
        cases=RESPONSES_CASES,
        retries_itself=True,
    ),
    python("pydantic-ai-slim with openai:", "pydantic_ai_agent.py", "openai:", cases=RESPONSES_CASES),
    python("openai, completions", "openai_completions.py", cases=COMPLETIONS_SDK_CASES),
    python(
        "openai of the sidecar, completions",
        "openai_completions.py",
        cases=COMPLETIONS_SDK_CASES,
        interpreter=OWN_PYTHON,
    ),
    node("openai for Node, completions", "openai_completions.mjs", cases=COMPLETIONS_SDK_CASES),
    python("llama-index by default", "llama_index_completions.py", cases=COMPLETIONS_CASES, retries_itself=True),
    python("openai, embeddings", "openai_embeddings.py", cases=EMBEDDINGS_SDK_CASES),
    python(
        "openai of the sidecar, embeddings",
        "openai_embeddings.py",
        cases=EMBEDDINGS_SDK_CASES,
        interpreter=OWN_PYTHON,
    ),
    node("openai for Node, embeddings", "openai_embeddings.mjs", cases=EMBEDDINGS_SDK_CASES),
    python("langchain-openai, embeddings", "langchain_embeddings.py", cases=EMBEDDINGS_CASES),
    node("@ai-sdk/openai, embeddings", "ai_sdk_embeddings.mjs", cases=EMBEDDINGS_CASES, retries_itself=True),
    python("anthropic", "anthropic_sdk.py", cases=MESSAGES_CASES, interpreter=AGENTS_PYTHON),
    python("requests of Claude Code", "claude_code.py", cases=CLAUDE_CODE_CASES, interpreter=AGENTS_PYTHON),
)


def missing(client: Client) -> str:
    """Return why *client* cannot run, empty if it can."""
    program, script = client.command[:2]
    if script.endswith(".mjs"):
        if not program:
            return "Node is not installed: the npm clients are skipped"
        ready = (HERE / "node" / "node_modules" / ".ready").exists()
        return "" if ready else "node_modules is missing: `make test-clients` installs the npm clients, if npm is there"
    return "" if program else "no interpreter is named: `make test-clients` sets CLIENTS_PYTHON and AGENTS_PYTHON"
