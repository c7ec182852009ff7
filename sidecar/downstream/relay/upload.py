"""The body of a relayed request on its way through: read from the client as the upstream takes it, and checked meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.api.rejection import Rejection
from sidecar.downstream.client_errors import body_too_large
from sidecar.wire.relay.form_model import FormFault
from sidecar.wire.relay.relayed_request import UploadFault

if TYPE_CHECKING:
    from sidecar.downstream.client_connection import ClientConnection
    from sidecar.wire.relay.form_model import FormReader

FORBIDDEN_STATUS = 403
PREFIX_BYTES = 65_536
"""Bytes of a body that are read before its call is admitted: a body that has ended by then is kept, and may be repeated."""
UPLOAD_WINDOW_BYTES = 524_288
"""What a body that streams through counts in `max_buffered`: a read of the client, and what waits for the upstream."""


class ClientUpload:
    """See `sidecar.wire.relay.relayed_request.Upload`. *length* is what the client announced, *limit* the most bytes.

    `read_prefix` may read the beginning before the call is admitted. *form* reads the parts of a form, up to its model.
    *unread_form* is a status where limits depend on the model, else None. With it, the form is read to its end. A
    second model, or anything that servers read in several ways, then breaks the upload off with that status.
    """

    __slots__ = (
        "_connection",
        "_form",
        "_is_complete",
        "_limit",
        "_prefix",
        "_unread_form",
        "length",
        "model",
        "received",
        "taken",
    )

    def __init__(
        self,
        connection: ClientConnection,
        limit: int,
        length: int | None,
        form: FormReader | None = None,
        unread_form: int | None = None,
    ) -> None:
        self._connection, self._limit, self._form, self._unread_form = connection, limit, form, unread_form
        self._prefix: list[bytes] = []
        self._is_complete = False
        self.length, self.taken, self.received = length, False, 0
        self.model = ""
        """The model of the form; empty while it is not known."""

    @property
    def is_complete(self) -> bool:
        """Whether the whole body has been received."""
        return self._is_complete

    async def read_prefix(self, most: int = PREFIX_BYTES) -> None:
        """Receive up to about *most* bytes, or until a form has named its model; `read` returns them first.

        Raises `UploadFault`.
        """
        is_form = self._form is not None
        while self.received < most and not self._is_complete and not (is_form and (self.model or self._form is None)):
            if data := await self._receive():
                self._prefix.append(data)

    def whole(self) -> bytes:
        """Return the body, which is complete and has not been taken."""
        return b"".join(self._prefix)

    async def read(self) -> bytes:
        """See `Upload.read`."""
        self.taken = True
        if self._prefix:
            return self._prefix.pop(0)
        while not self._is_complete:
            if data := await self._receive():
                return data
        return b""

    async def _receive(self) -> bytes:
        message = await self._connection.receive()
        if message["type"] != "http.request":
            self._is_complete = True
            raise UploadFault(Rejection(400, "invalid_request", "The body of the request is not complete."))
        data: bytes = message.get("body", b"")
        self._is_complete = not message.get("more_body")
        self.received += len(data)
        if self.received > self._limit:
            error = body_too_large(self._limit)
            raise UploadFault(Rejection(error.status, error.code, error.message))
        if self._form is not None:
            self._check(self._form, data)
        return data

    def _check(self, form: FormReader, data: bytes) -> None:
        try:
            form.feed(data)
            if self._is_complete:
                form.end()
        except FormFault as fault:
            self._form = None
            if self._unread_form is not None:
                msg = f"The model of this form cannot be read, because {fault}; limits depend on it."
                code = "forbidden" if self._unread_form == FORBIDDEN_STATUS else "invalid_request"
                raise UploadFault(Rejection(self._unread_form, code, msg)) from None
        else:
            self.model = form.model or ""
            if self.model and self._unread_form is None:
                self._form = None
