"""The documented fields of requests to the Messages API that choose no model, server, key or price beside `model`.

Source: `types/message_create_params.py` and `types/beta/message_create_params.py` of anthropic 2.14. Not listed, because they
name a model, a server, an account or a price: `fallbacks`, `mcp_servers`, `container`, `inference_geo`, `workspace_id`,
`user_profile_id`, `billing_policy`, `fallback_credit_token`, `thread`, `diagnostics`. `compaction` and tools that the server
runs cost tokens that the request does not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policies.api.call import LIMIT_FIELDS, MANY_FIELDS
from sidecar.wire.request.documented_fields import FieldKind, FieldShape


def _settings(names: str) -> dict[str, FieldShape]:
    return dict.fromkeys(names.split(), FieldKind.SETTING)


MESSAGES_API_FIELDS: Mapping[str, FieldShape] = MappingProxyType(
    {
        **_settings(" ".join((*LIMIT_FIELDS, *MANY_FIELDS))),
        **_settings(
            "model models stream temperature top_p top_k min_p seed stop stop_sequences service_tier speed user"
        ),
        **dict.fromkeys(("messages", "system", "output_format"), FieldKind.CONTENT),
        "stream_options": _settings("include_usage"),
        "metadata": _settings("user_id"),
        "thinking": _settings("type budget_tokens display"),
        "tools": FieldKind.TOOLS,
        "tool_choice": _settings("type name disable_parallel_tool_use"),
        "cache_control": _settings("type ttl"),
        "output_config": {**_settings("effort"), "format": FieldKind.CONTENT},
        "context_management": {"edits": FieldKind.CONTENT},
    }
)
"""The fields that are forwarded with `fields = "known"`, and that do not contradict a rule for models."""
