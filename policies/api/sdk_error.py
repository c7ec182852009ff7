"""What broke an attempt, told by an SDK's exception that is only made, and its SDK loaded, for whoever looks at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Cause(Exception):
    """Stands for an exception: its name, its message and the fields of an API's error at once, `error` itself when asked.

    *make* makes it, *said* holds the code, type and param of the server's error, *origin* becomes its `__cause__`.
    """

    def __init__(
        self,
        make: Callable[[], Exception],
        name: str,
        message: str = "",
        *,
        status: int | None = None,
        said: Mapping[str, str] = {},
        origin: BaseException | None = None,
    ) -> None:
        super().__init__(name)
        self._make = make
        self._error: Exception | None = None
        self.name, self.message, self.status_code, self.__cause__ = name, message, status, origin
        self.code, self.type, self.param = said.get("code"), said.get("type"), said.get("param")

    @classmethod
    def of(cls, error: Exception) -> Cause:
        """Return what stands for *error*, which may be there already."""
        if isinstance(error, Cause):
            return error
        name, origin = type(error).__name__, error.__cause__
        if not type(error).__module__.startswith("openai"):
            return cls(lambda: error, name, origin=origin)  # what another one says is not for clients
        said = {
            key: str(value) for key in ("code", "type", "param") if (value := getattr(error, key, None)) is not None
        }
        message, status = getattr(error, "message", ""), getattr(error, "status_code", None)
        return cls(
            lambda: error,
            name,
            message if isinstance(message, str) else "",
            status=status if isinstance(status, int) else None,
            said=said,
            origin=origin,
        )

    @property
    def error(self) -> Exception:
        """The exception, the same one each time."""
        if self._error is None:
            self._error = self._make()
            self._error.__cause__ = self.__cause__
        return self._error
