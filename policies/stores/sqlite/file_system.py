"""Tell whether a file is on a network file system, which may not lock files between machines."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNT_TABLE = Path("/proc/mounts")
"""The mounts that this process sees, on Linux (man 5 proc, fstab). Elsewhere nothing is known."""
_NETWORK_NAMES = "9p afs beegfs ceph cifs coda davfs gfs2 glusterfs lustre ncpfs nfs nfs4 ocfs2 orangefs prl_fs smb2 smb3 smbfs vboxsf vmhgfs"
_FUSE_NAMES = "ceph ceph-fuse davfs gcsfuse glusterfs grpcfuse mfs osxfs rclone s3fs sshfs vmhgfs-fuse"
NETWORK_FILE_SYSTEMS = frozenset((*_NETWORK_NAMES.split(), *(f"fuse.{name}" for name in _FUSE_NAMES.split())))
"""File systems that several machines may share. WAL needs memory shared by all users of a file (sqlite.org/wal.html)."""
NETWORK_WARNING = (
    "{path} is on a network file system ({kind}), which may not lock files, so limits may be exceeded and the file may be "
    "damaged; put it on a local disk, or use redis:// for several machines"
)
_ESCAPED_BYTE = re.compile(r"\\([0-7]{3})")


def network_warning(path: Path, mounts: Path = MOUNT_TABLE) -> str | None:
    """Return a warning if *path* is on a network file system by the table at *mounts*, else None."""
    try:
        table = mounts.read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    kind = file_system_of(path, table)
    return NETWORK_WARNING.format(path=path, kind=kind) if kind in NETWORK_FILE_SYSTEMS else None


def file_system_of(path: Path, table: str) -> str:
    """Return the type of the file system of *path*; *table* has the lines of /proc/mounts. Empty if it is unknown."""
    target, longest, kind = Path(os.path.realpath(path)), -1, ""
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:  # noqa: PLR2004  # device, mount point, type
            continue
        mount = Path(_ESCAPED_BYTE.sub(lambda code: chr(int(code[1], 8)), fields[1]))
        if len(mount.parts) >= longest and target.is_relative_to(mount):  # a later mount hides an earlier one
            longest, kind = len(mount.parts), fields[2]
    return kind
