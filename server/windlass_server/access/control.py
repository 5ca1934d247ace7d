"""What decides on every call of one server: its keys, which can be read again."""

from __future__ import annotations

import logging

from windlass.errors import ConfigError
from windlass_server.access.keys import load_keys
from windlass_server.access.settings import AccessSettings

logger = logging.getLogger(__name__)


class AccessControl:
    """The keys of a server.

    Raises:
        ConfigError: a key or the key file is wrong.
    """

    def __init__(self, settings: AccessSettings) -> None:
        self.settings = settings
        self.keys = load_keys(settings)

    def reload(self) -> None:
        """Read the key file again; what is wrong with it is logged and the old keys stay."""
        try:
            keys = load_keys(self.settings)
        except ConfigError as exc:
            logger.error("The keys stay as they were: %s", exc)
            return
        self.keys = keys
        logger.info("The key file was read again: %d keys", len(keys))
