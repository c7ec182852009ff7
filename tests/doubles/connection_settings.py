"""Settings of an upstream's connections: a table, a client's certificate, and a module of transport factories."""

from __future__ import annotations

from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)


def table(*lines: str) -> str:
    """Return the table of an upstream with the settings *lines*."""
    return "\n".join(["[[upstream]]", "model = 'm'", *lines, ""])


FACTORIES = """
import httpx

calls, requests = [], []


class Counting(httpx.AsyncHTTPTransport):
    async def handle_async_request(self, request):
        requests.append(request.url)
        return await super().handle_async_request(request)


def make():
    calls.append("make")
    return Counting()


def make_for(settings):
    calls.append(settings.base_url)
    return Counting()


async def later():
    return httpx.AsyncHTTPTransport()


def client():
    return httpx.AsyncClient()


def breaks():
    return 1 / 0


def asks(one, two):
    return None


number = 3
"""


def pem_files(folder: Path, authority: trustme.CA, kind: str) -> str:
    """Write a client certificate in the form *kind*, and return the value of `client_cert`."""
    made = authority.issue_cert("client@example.org")
    key = made.private_key_pem.bytes()
    certificate = b"".join(each.bytes() for each in made.cert_chain_pems)
    if kind == "encrypted":
        encryption = BestAvailableEncryption(b"pass")
        key = load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    (folder / "client.pem").write_bytes(certificate + (b"" if kind in ("two files", "no key") else key))
    (folder / "key.pem").write_bytes(key)
    return "['client.pem', 'key.pem']" if kind == "two files" else "'client.pem'"
