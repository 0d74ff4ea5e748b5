"""The trial of a package: its networks are loaded and run once, in a child process.

A graph may loop for ever, allocate without bound or crash its runtime. Then the child fails, and neither the model in
service nor the end of the process has to wait for it.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import Final

from detector import errors
from detector.errors import InferenceFailed, InvalidPackage, RuntimeUnavailable, WholebodyError, text_of
from detector.models.package import ModelPackage
from detector.system import child_process, memory
from detector.system.child_process import ChildFailed
from detector.system.json_file import read_object, write_object

from .measurement import processor
from .pose_engine import EngineOptions, PoseEngine
from .runtimes import installed_versions

log = logging.getLogger('wholebody.engine')

MAX_BYTES: Final = 8 * 1024**3
"""Limit of the memory that a trial on the CPU allocates, in bytes."""
_RESERVED_BYTES: Final = 1024**3
"""Memory that runtimes allocate and never touch, in bytes; the limit may exceed the available memory by it."""
_PASSED: Final = 'trials.json'
_MAX_PASSED: Final = 64
"""Number of passed trials that are remembered."""


def ensure(package: ModelPackage, options: EngineOptions) -> None:
    """Try a package out, unless it has passed with these options on this machine before; see `run`."""
    known = _passed(options.cache)
    if _key(package, options) not in known:
        run(package, options)


def run(package: ModelPackage, options: EngineOptions) -> None:
    """Load the networks of a package in a child process and run them once. With a cache, a success is remembered there.

    :raises InvalidPackage: names the network or the fault.
    :raises RuntimeUnavailable: the runtime or device is missing or rejects a network, or the machine lacks time or
        memory for the trial.
    :raises InferenceFailed: a device other than the CPU fails; the package may be sound.
    """
    on_cpu = options.device == 'cpu'
    try:
        fault = child_process.call(
            __name__,
            check.__name__,
            package,
            options,
            seconds=options.trial_seconds,
            max_bytes=_max_bytes() if on_cpu else None,  # drivers of other devices reserve memory
        )
    except ChildFailed as failure:
        text = (
            f'a trial inference of {package.wholebody.detector.file} and {package.wholebody.estimator.file} {failure}'
        )
        if failure.was_starved:
            raise RuntimeUnavailable(text) from failure
        raise (InvalidPackage if on_cpu else InferenceFailed)(text) from failure
    if fault is not None:
        raise getattr(errors, fault['type'])(fault['text'])
    _remember(options.cache, _key(package, options))


def check(package: ModelPackage, options: EngineOptions) -> dict[str, str] | None:
    """Load the networks of a package and run them once; the child process calls this.

    :return: type and text of the error; None if all is well.
    """
    try:
        PoseEngine(package, options).check()
    except WholebodyError as error:
        return {'type': type(error).__name__, 'text': text_of(error)}
    except Exception as error:  # nothing else may read this error
        text = f'a trial inference failed: {type(error).__name__}: {error}'
        return {'type': InvalidPackage.__name__, 'text': text[:600]}
    return None


def _max_bytes() -> int:
    """Return the limit of the memory: what the machine can spare and the cgroup allows, up to `MAX_BYTES`."""
    spare = [found for found in (memory.spare(), memory.usable()) if found is not None]
    return min([MAX_BYTES, *(found + _RESERVED_BYTES for found in spare)])


def _key(package: ModelPackage, options: EngineOptions) -> str:
    """Return a hash of everything that the outcome of a trial depends on."""
    demanded = (options.backend_type, options.device, options.precision, options.precision_agreement)
    parts = (package.wholebody.model_dump_json(), demanded, processor(), *installed_versions())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _passed(cache: Path | None) -> list[str]:
    content = None if cache is None else read_object(cache / _PASSED)
    passed = [] if content is None else content.get('passed')
    return [key for key in passed if isinstance(key, str)] if isinstance(passed, list) else []


def _remember(cache: Path | None, key: str) -> None:
    if cache is None:
        return
    known = [other for other in _passed(cache) if other != key]
    try:
        write_object(cache / _PASSED, {'passed': [*known, key][-_MAX_PASSED:]})
    except OSError as error:
        log.warning('%s cannot be written: %s', cache, os.strerror(error.errno or 0))
