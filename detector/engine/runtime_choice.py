"""The choice of runtime and precision for a package: what the settings demand, or the fastest on this machine."""

import hashlib
import logging
import os
import platform
import time
from dataclasses import dataclass
from functools import cache as memoized
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

import numpy as np

from detector.errors import RuntimeUnavailable
from detector.models.package import ModelPackage
from detector.system import memory
from detector.system.json_file import read_object, write_object

from .runtimes import (
    Backend,
    Precision,
    Runtime,
    cpu_flags,
    installed_for,
    installed_version,
    is_installed,
    open_runtime,
    usable_cpus,
)

log = logging.getLogger('wholebody.engine')

BackendType = Literal['auto', 'onnxruntime', 'openvino', 'opencv']
PrecisionSetting = Literal['auto', 'f32', 'bf16']

_MEASURED_BYTES: Final = 10 * 1024**2
"""Size of the smallest package that is measured. Smaller ones are so fast that measuring costs more than it saves."""
_ROUNDS: Final = 3
_MEASURING_SECONDS: Final = 2.5
"""Time after which no further round of a runtime begins, in seconds: a busy or slow machine must not delay its first
answer."""
_CLEARLY_FASTER: Final = 0.95
"""A runtime is chosen over the usual one if it takes less than this share of its time."""
_OPENVINO_BYTES: Final = 1536 * 1024**2
"""Memory below which OpenVINO is not chosen, in bytes. It keeps the values of all layers and compiles for each batch
size: a node takes up to 1.1 GB with it and the starter model, and up to 0.4 GB with ONNX Runtime."""
SMALL_BATCH: Final = 2
"""Persons per inference on the CPU with less memory than that; on a CPU more persons per inference gain little."""
_MEASUREMENTS: Final = 'runtimes.json'


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A runtime, device and precision.

    :param compiled: folder for compiled networks; None: they are not kept.
    :param reason: the reason for the choice, for the log.
    :param largest_batch: persons per inference, at most; None: no limit.
    """

    backend_type: Backend
    device: str
    precision: Precision
    compiled: Path | None
    reason: str
    largest_batch: int | None = None

    def open(self, path: Path) -> Runtime:
        """Load an ONNX file.

        :raises RuntimeUnavailable: see `runtimes.open_runtime`.
        """
        return open_runtime(
            path, backend_type=self.backend_type, device=self.device, precision=self.precision, compiled=self.compiled
        )


def choose(
    package: ModelPackage,
    *,
    backend_type: BackendType,
    device: str,
    precision: PrecisionSetting,
    cache: Path | None = None,
) -> Choice:
    """Choose runtime and precision for a package.

    On the CPU with less than 1.5 GiB of memory, ONNX Runtime is chosen. Otherwise bf16 is chosen if the package allows
    it and the CPU has matrix units for it (AMX; on other CPUs OpenVINO gains nothing). In f32 the installed runtimes
    are timed on the networks of the package once, and the result is kept.

    :param cache: folder that keeps the results. With it, compiled networks are kept in the folder of the package, and
        are removed with it.
    :raises RuntimeUnavailable: the demanded runtime or precision is missing, or no runtime is installed for the device.
    """
    precision = _bounded(precision, package)
    little = _little_memory() if device == 'cpu' else None
    compiled = package.folder / 'compiled' if cache is not None and os.access(package.folder, os.W_OK) else None

    def choice(backend: Backend, chosen: Precision, reason: str) -> Choice:
        return Choice(
            backend_type=backend,
            device=device,
            precision=chosen,
            compiled=compiled,
            reason=reason,
            largest_batch=None if little is None else SMALL_BATCH,
        )

    if little is not None and backend_type == 'auto' and precision != 'bf16' and is_installed('onnxruntime'):
        return choice('onnxruntime', 'f32', little)
    wants_bf16 = precision == 'bf16' or (precision == 'auto' and device == 'cpu' and 'amx_bf16' in cpu_flags())
    if wants_bf16 and backend_type in ('auto', 'openvino') and is_installed('openvino'):
        return choice(
            'openvino', 'bf16', 'this CPU has matrix units for bf16' if precision == 'auto' else 'PRECISION=bf16'
        )
    if precision == 'bf16' and backend_type == 'auto':
        raise RuntimeUnavailable('PRECISION=bf16 needs the package openvino, which is not installed')
    if backend_type != 'auto':
        return choice(backend_type, 'bf16' if precision == 'bf16' else 'f32', f'BACKEND_TYPE={backend_type}')
    installed = installed_for(device)
    if len(installed) == 1 or device != 'cpu' or _size(package) < _MEASURED_BYTES:
        return choice(installed[0], 'f32', 'the default')
    backend, reason = _fastest(package, [name for name in installed if name != 'opencv'] or installed, cache)
    return choice(backend, 'f32', reason)


def _little_memory() -> str | None:
    """Return what to log if this process may use little memory; None if it may use enough for each runtime."""
    usable = memory.usable()
    if usable is None or usable >= _OPENVINO_BYTES:
        return None
    return f'this process may use {usable >> 20} MiB of memory, and OpenVINO needs {_OPENVINO_BYTES >> 20} MiB'


def _bounded(precision: PrecisionSetting, package: ModelPackage) -> PrecisionSetting:
    if package.wholebody.precision == 'any' or precision == 'f32':
        return precision
    if precision == 'bf16':
        log.warning('PRECISION=bf16 is ignored: %s requires f32', package.model_version)
    return 'f32'


def _size(package: ModelPackage) -> int:
    return package.detector_path.stat().st_size + package.estimator_path.stat().st_size


def _fastest(package: ModelPackage, backends: list[Backend], cache: Path | None) -> tuple[Backend, str]:
    """Return the fastest runtime in f32 on the CPU, and the reason. Earlier measurements are reused."""
    key = _key(package, backends)
    known = _measured(cache)
    milliseconds = known.get(key)
    if not isinstance(milliseconds, dict) or set(milliseconds) - set(backends) or not milliseconds:
        log.info('%s: measuring which is the fastest of %s', package.model_version, ', '.join(backends))
        milliseconds = _measure(package, backends)
        _remember(cache, known | {key: milliseconds})
    usual = next(name for name in backends if name in milliseconds)
    best: Backend = min(milliseconds, key=milliseconds.__getitem__)
    if milliseconds[best] > _CLEARLY_FASTER * milliseconds[usual]:
        best = usual
    measured = ', '.join(f'{name} {time:.0f} ms' for name, time in milliseconds.items())
    return best, f'measured: {measured} per frame of two persons'


def _measure(package: ModelPackage, backends: list[Backend]) -> dict[Backend, float]:
    """Time a detection and two poses on each runtime that works, one runtime after the other.

    :return: milliseconds, medians of several rounds; of one round if that takes long.
    :raises RuntimeUnavailable: no runtime works.
    """
    milliseconds: dict[Backend, float] = {}
    failures = []
    for name in backends:
        try:
            milliseconds[name] = _time(package, name)
        except Exception as error:  # each runtime raises its own types; another runtime may work
            failures.append(f'{name}: {error}')
        memory.give_back()  # only one runtime at a time holds the networks
    if not milliseconds:
        raise RuntimeUnavailable(f'no runtime runs {package.model_version}: {"; ".join(failures)[:600]}')
    return milliseconds


def _time(package: ModelPackage, name: Backend) -> float:
    """Return the time of a detection and two poses, in milliseconds."""
    spec = package.wholebody
    detector, estimator = (
        open_runtime(path, backend_type=name) for path in (package.detector_path, package.estimator_path)
    )
    image, person = _noise(spec.detector.input_size), _noise(spec.estimator.input_size)
    detector.run(image)
    estimator.run(person)
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _ROUNDS and (not times or time.perf_counter() - begun < _MEASURING_SECONDS):
        start = time.perf_counter()
        detector.run(image)
        for _ in range(2):
            estimator.run(person)
        times.append(1000 * (time.perf_counter() - start))
    return round(median(times), 1)


def _noise(size: tuple[int, int]) -> Any:
    return np.random.default_rng(0).normal(0, 1, (1, 3, size[1], size[0])).astype(np.float32)


def _key(package: ModelPackage, backends: list[Backend]) -> str:
    """Return a hash of everything that a measurement depends on: networks, machine, usable CPUs, versions."""
    spec = package.wholebody
    versions = [installed_version(name) for name in backends]
    parts = [spec.detector.sha256, spec.estimator.sha256, processor(), usable_cpus(), *backends, *versions]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@memoized
def processor() -> str:
    """Return a text that identifies the model of the processor."""
    return f'{platform.processor()} {platform.machine()} {" ".join(sorted(cpu_flags()))}'


def _measured(cache: Path | None) -> dict[str, Any]:
    return (read_object(cache / _MEASUREMENTS) or {}) if cache is not None else {}


def _remember(cache: Path | None, measured: dict[str, Any]) -> None:
    if cache is None:
        return
    try:
        write_object(cache / _MEASUREMENTS, measured)
    except OSError as error:
        log.warning('%s cannot be written: %s', cache, error.strerror)
