"""The engine process: `python -m windlass.executor.engine_process ENDPOINT`.

It is started by `windlass.engine.client`, never by hand: its standard input is a pipe whose end
tells that the front end is gone, which works even when the front end was killed.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import cast

from windlass.config import EngineConfig, ModelInfo
from windlass.engine.ipc import EngineChannel, Failed, Hello, LoadProgress, Ready, Shutdown
from windlass.engine.loop import EngineLoop, SteppingEngine
from windlass.engine.make import make_engine
from windlass.engine.process import DEFAULT_RUNNER_FACTORY
from windlass.errors import ConfigError, WindlassError
from windlass.log_lines import configure_logging
from windlass.pooling import PoolingRunner
from windlass.step import ModelRunner

logger = logging.getLogger(__name__)

RunnerFactory = Callable[[EngineConfig], ModelRunner | PoolingRunner]


def main(arguments: list[str] | None = None) -> int:
    """Load a model and serve the front end at ENDPOINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="windlass.executor.engine_process")
    parser.add_argument("endpoint", help="address of the front end's socket")
    parser.add_argument("--runner", default=DEFAULT_RUNNER_FACTORY, help="module:function")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)

    threading.Thread(target=_exit_with_front_end, name="front-end-watch", daemon=True).start()
    _set_signals()
    configure_logging(options.log_format, logging.INFO, "%(levelname)s [engine] %(message)s")
    channel = EngineChannel(options.endpoint)
    try:
        return _serve(channel, options.runner)
    finally:
        channel.close()


def _serve(channel: EngineChannel, runner_factory: str) -> int:
    channel.send(LoadProgress(what="starting the engine process", share=0.0))
    config = _receive_config(channel)
    if config is None:
        return 0
    try:
        engine, runner, info = _load(config, channel, runner_factory)
    except Exception as error:  # noqa: BLE001 -- whatever went wrong, the front end must be told
        channel.send(_failure(error))
        return 1
    try:
        EngineLoop(engine, channel, info).run()
    finally:
        runner.close()
    return 0


def _receive_config(channel: EngineChannel) -> EngineConfig | None:
    while True:
        message = channel.receive(wait=True)
        if isinstance(message, Hello):
            return message.config
        if isinstance(message, Shutdown):
            return None


def _load(
    config: EngineConfig, channel: EngineChannel, runner_factory: str
) -> tuple[SteppingEngine, ModelRunner | PoolingRunner, ModelInfo]:
    runner = import_factory(runner_factory)(config)
    info = runner.load(lambda what, share: channel.send(LoadProgress(what=what, share=share)))
    engine = make_engine(config, info, runner)
    # What loading made stays until the end: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    channel.send(Ready(info=info))
    return engine, runner, info


def import_factory(target: str) -> RunnerFactory:
    """Return the function that "module:function" names.

    Raises:
        ConfigError: `target` has no colon, or the module has no such function.
    """
    module, _, name = target.partition(":")
    factory = getattr(import_module(module), name, None) if name else None
    if not callable(factory):
        raise ConfigError(f"the runner factory {target!r} is not a 'module:function' that exists")
    return cast(RunnerFactory, factory)


def _failure(error: Exception) -> Failed:
    text = " ".join(str(error).split())
    if isinstance(error, WindlassError):
        return Failed(message=text, error=type(error).__name__)
    logger.error("The engine could not start", exc_info=error)
    return Failed(message=f"{type(error).__name__}: {text}", error="EngineError")


def _set_signals() -> None:
    # Ctrl-C reaches the whole process group: the front end decides what happens to its engine.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # The watchdog asks for the stacks before it kills a hung engine.
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _exit_with_front_end() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
