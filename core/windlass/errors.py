"""Every exception that Windlass raises on purpose.

WindlassError
+ ConfigError              a setting is wrong: names the setting and what is allowed
+ RequestError             one request is wrong: names the field (`param`) and the limit
|   - ContextLengthError   the prompt does not fit the model's context
|   - QueueFullError       admission refused: the queue is at its bound
+ ModelError               a checkpoint cannot be loaded: names the file, tensor or architecture
+ PluginError              a plugin broke its contract
|   - BackendNotAvailableError   the backend asked for cannot be used here, and why
|   - UnsupportedError           a backend cannot do what the model needs
+ OutOfMemoryError         a reservation does not fit (names the bytes asked and available), or a
|                          kernel found no memory to work in
+ EngineError              the engine failed while it served
    - EngineDeadError      the engine process is gone; it may be restarting
    - RequestFailedError   this request made a step fail, or produced no valid numbers
"""

from __future__ import annotations


class WindlassError(Exception):
    """Base of every error that Windlass raises on purpose."""


class ConfigError(WindlassError):
    """A setting is wrong."""


class RequestError(WindlassError, ValueError):
    """One request is wrong; `param` names the field, `code` is the API's error code."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value"):
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ContextLengthError(RequestError):
    """The prompt does not fit into the model's context."""

    def __init__(self, message: str, *, param: str = "prompt"):
        super().__init__(message, param=param, code="context_length_exceeded")


class QueueFullError(RequestError):
    """Admission refused: the queue is at its bound."""

    def __init__(self, message: str, *, retry_after: float = 1.0):
        super().__init__(message, param=None, code="server_overloaded")
        self.retry_after = retry_after


class ModelError(WindlassError):
    """A checkpoint cannot be loaded."""


class PluginError(WindlassError):
    """A plugin broke its contract."""


class BackendNotAvailableError(PluginError):
    """The backend that was asked for cannot be used here."""


class UnsupportedError(PluginError):
    """A backend cannot do what the model needs."""


class OutOfMemoryError(WindlassError):
    """A reservation does not fit."""


class EngineError(WindlassError):
    """The engine failed while it served."""


class EngineDeadError(EngineError):
    """The engine process is gone; `retry_after` is in seconds, None when it stays down."""

    def __init__(self, message: str, *, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class RequestFailedError(EngineError):
    """This request made a step fail, or produced no valid numbers."""
