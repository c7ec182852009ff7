"""Listening sockets: all addresses of a host name, or one Unix socket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Self, TypeAlias

Resolve: TypeAlias = Callable[..., list[tuple[Any, ...]]]

ACCEPT_BACKLOG = 4096
"""Connections that the kernel queues before they are accepted."""
MISSING_FAMILY = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of an address whose family this machine does not have."""
FREE_PORT_ATTEMPTS = 16
"""Attempts to find a port that is free on all addresses."""


class Listener:
    """Open listening sockets, and the address to announce. A context manager that closes them.

    Closing also removes the file of a Unix socket, so a forked child must call `close_sockets` instead of `close`.
    """

    def __init__(self, sockets: list[socket.socket], address: str, path: Path | None = None) -> None:
        self.sockets, self.address = sockets, address
        self._path = path
        # A duplicate keeps the socket open until its file is removed; else another process would take the file for stale.
        self._guard = sockets[0].dup() if path is not None else None
        self._inode = _inode(path)

    @property
    def is_loopback(self) -> bool:
        """Whether all sockets are TCP sockets on loopback addresses: only programs of this machine can connect."""
        return all(each.family != socket.AF_UNIX and _is_loopback(each.getsockname()[0]) for each in self.sockets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the Unix socket's file, unless another process has replaced it, and close the sockets."""
        if self._path is not None and self._inode is not None and _inode(self._path) == self._inode:
            self._path.unlink(missing_ok=True)
        self.close_sockets()

    def close_sockets(self) -> None:
        """Close this process's copies of the sockets; the file of a Unix socket stays."""
        for each in self.sockets:
            each.close()
        if self._guard is not None:
            self._guard.close()


def listen_tcp(host: str, port: int, resolve: Resolve = socket.getaddrinfo) -> Listener:
    """Listen on every address of *host*, all on the same port; port 0 picks one that is free on all of them.

    An address whose family this machine does not have is skipped if another address binds. *resolve* is
    `socket.getaddrinfo`. Raises `OSError` if no address binds or one is in use, and `OverflowError` for an invalid
    port.
    """
    found = resolve(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, kind, protocol, address) for family, kind, protocol, _, address in found))
    for attempt in range(FREE_PORT_ATTEMPTS):
        try:
            sockets = _bind_all(addresses)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE or attempt == FREE_PORT_ATTEMPTS - 1:
                raise
        else:
            break
    bound = sockets[0].getsockname()[1]
    return Listener(sockets, f"http://{f'[{host}]' if ':' in host else host}:{bound}")


def listen_unix(path: Path) -> Listener:
    """Listen on a Unix socket at *path*; the umask decides its permissions.

    A stale socket file is replaced. Raises `OSError` if another process listens on it, or if the file is not a socket.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path.parent):
            _remove_stale(path)
            listener.bind(os.fspath(path))
            listener.listen(ACCEPT_BACKLOG)
        return Listener([listener], f"unix:{path}", path)
    except OSError:
        listener.close()
        raise


def _bind_all(addresses: list[tuple[int, int, int, tuple[Any, ...]]]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, protocol, (host, port, *scope) in addresses:
            shared = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bound(family, kind, protocol, (host, shared, *scope), only=len(addresses) > 1))
            except OSError as error:
                if error.errno not in MISSING_FAMILY:
                    raise
                missing = error
        if not sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, "the host has no address")
        for each in sockets:
            each.listen(ACCEPT_BACKLOG)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def _bound(family: int, kind: int, protocol: int, address: tuple[Any, ...], *, only: bool) -> socket.socket:
    opened = socket.socket(family, kind, protocol)  # *protocol* must be TCP: asyncio sets TCP_NODELAY only then
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if only and family == socket.AF_INET6:
            # Without this option `::` also binds the IPv4 port, which the next address needs.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
    except BaseException:
        opened.close()
        raise
    return opened


def _is_loopback(host: str) -> bool:
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # EAGAIN: the backlog is full, so a process listens
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "another process listens on this socket")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock *folder*, so that two starting processes do not both replace the same stale file."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # the file system has no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _inode(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
