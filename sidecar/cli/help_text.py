"""Texts of `--help` that several commands share, and the examples of each command."""

from __future__ import annotations

ENVIRONMENT_VARIABLES = """\
environment variables (a flag overrides its variable, which overrides the file, which overrides the
shipped defaults; an empty variable counts as not set):
  SIDECAR_CONFIG        configuration file, like --config
  SIDECAR_UPSTREAM      URL of the upstream, like --upstream; replaces the [[upstream]] list of the file
  SIDECAR_MODEL         model of calls that name none, like --model
  SIDECAR_HOST          address to listen on, like --host
  SIDECAR_PORT          port to listen on, like --port
  SIDECAR_STORE         URL of the store, like --store; for a URL with a password
  SIDECAR_UPSTREAM_KEY  key for the upstream of --upstream or SIDECAR_UPSTREAM
  OPENAI_API_KEY        key for api.openai.com; with no upstream configured, calls go there
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY
                        HTTP proxy to the upstreams, unless the file sets `proxy`
  The variables that a file names (api_key_env, headers_env) hold the keys of its upstreams. Only `serve`
  needs them.
"""

NO_ENVIRONMENT = """\
environment variables: this command reads none.
"""

EXIT_CODES = """\
exit codes:
  0    success; for `serve`, also a drained stop after SIGTERM or SIGINT
  1    the command failed while it ran, for example because the port is in use
  2    invalid flags or configuration; each fault is one line on stderr; for `usage` and `budget`, also a
       store that does not exist or cannot be read from outside, and an unknown tenant or budget; for
       `key rotate`, also an unknown id
  130  interrupted by Ctrl+C
"""

TOP_LEVEL_EXAMPLES = """\
examples:
  sidecar demo                                        try it, with nothing to configure
  sidecar serve --upstream http://127.0.0.1:11434/v1  put it in front of Ollama
  sidecar config > sidecar.toml                       write a configuration file to edit
  sidecar check sidecar.toml                          validate the file
  sidecar serve --config sidecar.toml                 run with it
"""

SERVE_DESCRIPTION = """\
Run the sidecar until SIGTERM or SIGINT. The first line on stdout is `sidecar listening on URL`; a
summary of upstreams, store, policies, profiles and keys follows, with a warning if nothing limits calls.
Without --config it runs with the shipped configuration, which `sidecar config` prints.
"""

SERVE_EXAMPLES = """\
examples:
  sidecar serve --upstream http://127.0.0.1:11434/v1 --model llama3.2
  SIDECAR_UPSTREAM_KEY=sk-... sidecar serve --upstream https://llm.example/v1
  sidecar serve --config sidecar.toml --host 0.0.0.0 --port 8787 --workers 4
  sidecar serve --upstream https://llm.example/v1 --store redis://127.0.0.1:6379/0
"""

DEMO_DESCRIPTION = """\
Run a mock upstream and a sidecar in front of it, with the shipped configuration, every CORS origin
allowed and a temporary store. Prints curl commands to try. Ctrl+C ends it and removes the store.
"""

DEMO_EXAMPLES = """\
examples:
  sidecar demo
  sidecar demo --port 9000
"""

MOCK_DESCRIPTION = """\
Run a mock of an OpenAI-compatible upstream, for tests and measurements. It serves
/v1/chat/completions and /v1/models. A model named mock-N-I-F overrides the three values for one
request: N tokens, I milliseconds apart, the first after F milliseconds.
"""

MOCK_EXAMPLES = """\
examples:
  sidecar mock --tokens 100 --interval-ms 20 --first-ms 300
  sidecar serve --upstream http://127.0.0.1:8788/v1 --model mock-100-20-300
"""

CONFIG_DESCRIPTION = """\
Print the shipped configuration: every option with its default and a comment. Save it and edit it.
"""

CONFIG_EXAMPLES = """\
examples:
  sidecar config > sidecar.toml
"""

CHECK_DESCRIPTION = """\
Validate a configuration, with the environment. Every fault is one line on stderr:
`FILE: key.path: problem; cure`. Needs no upstream and no secret, and does not open the store. A secret
that is set, or a key file that exists, must be usable.
"""

CHECK_EXAMPLES = """\
examples:
  sidecar check sidecar.toml
"""

USAGE_DESCRIPTION = """\
Show limit, spent, reserved and left amount and the reset time of each budget, read from the store of
the configuration, and the limits of each profile, rates included. The first line names the store (with
--json on stderr). A store that does not exist is refused. Works while sidecars run; needs no secret.
"""

USAGE_EXAMPLES = """\
examples:
  sidecar usage --config sidecar.toml
  sidecar usage --config sidecar.toml --tenant acme --json
  sidecar usage --store redis://127.0.0.1:6379/0
"""

RESET_DESCRIPTION = """\
Set what a tenant has spent in the current window to 0, in one budget or in all budgets that count by
tenant. Reservations of running calls stay. A line for each counter shows what was spent before and
after. The store keeps a note, which every running sidecar logs. Works while sidecars run.
"""

RESET_EXAMPLES = """\
examples:
  sidecar budget reset --config sidecar.toml --tenant acme
  sidecar budget reset --config sidecar.toml --tenant acme --policy users --user ann
"""

GRANT_DESCRIPTION = """\
Subtract an amount from what a tenant has spent in the current window of one budget. The result may be
negative: that is room beyond the limit, until the window ends. A grant corrects one counter: in a budget
that counts by tenant and user (model, ip), name the user too. Running it twice grants twice.
"""

GRANT_EXAMPLES = """\
examples:
  sidecar budget grant --config sidecar.toml --tenant acme --tokens 200000
  sidecar budget grant --config sidecar.toml --tenant acme --policy money --usd 2.50
"""

NEW_KEY_DESCRIPTION = """\
Print a new random key, and below it the [[key]] table to add to the configuration. Give the key to
the client: the configuration holds only its SHA-256. Once a file has keys, calls without one get 401.
"""

NEW_KEY_EXAMPLES = """\
examples:
  sidecar key new --tenant acme
  sidecar key new --tenant acme --id acme-web --not-after 2027-12-31 --comment "ask Kim"
"""

ROTATE_KEY_DESCRIPTION = """\
Print a new random key, and below it the [[key]] table of the configuration that accepts the new key and
the old one. Changes no file: replace the table, restart the sidecar, give the new key to the client, and
remove the old hash when the client uses the new key. Limits count by tenant, so a rotation resets none.
"""

ROTATE_KEY_EXAMPLES = """\
examples:
  sidecar key rotate --id acme-web --config sidecar.toml
  sidecar key rotate --id acme-web --config sidecar.toml --old-not-after 2027-01-31
"""

LIST_KEYS_DESCRIPTION = """\
List the keys of the configuration: id, tenant, whether they have expired, the beginning of their hashes,
and what they may use. Needs no secret and does not open the store.
"""

LIST_KEYS_EXAMPLES = """\
examples:
  sidecar key list --config sidecar.toml
  sidecar key list --config sidecar.toml --json
"""
