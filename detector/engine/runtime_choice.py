"""The choice of runtime and precision for a package: what the settings demand, or the fastest on this machine."""

import hashlib
import json
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
_MEASURING_SECONDS: Final = 5.0
"""Time after which no further round begins, in seconds: a busy or slow machine must not delay its first answer."""
_CLEARLY_FASTER: Final = 0.95
"""A runtime is chosen over the usual one if it takes less than this share of its time."""
_MEASUREMENTS: Final = 'runtimes.json'


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A runtime, device and precision.

    :param compiled: folder for compiled networks; None: they are not kept.
    :param reason: the reason for the choice, for the log.
    """

    backend_type: Backend
    device: str
    precision: Precision
    compiled: Path | None
    reason: str

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

    bf16 is chosen if the package allows it and the CPU has matrix units for it (AMX; on other CPUs OpenVINO gains
    nothing). In f32 the installed runtimes are timed on the networks of the package once, and the result is kept.

    :param cache: folder that keeps the results. With it, compiled networks are kept in the folder of the package, and
        are removed with it.
    :raises RuntimeUnavailable: the demanded runtime or precision is missing, or no runtime is installed for the device.
    """
    precision = _bounded(precision, package)
    compiled = package.folder / 'compiled' if cache is not None and os.access(package.folder, os.W_OK) else None

    def choice(backend: Backend, chosen: Precision, reason: str) -> Choice:
        return Choice(backend_type=backend, device=device, precision=chosen, compiled=compiled, reason=reason)

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
    """Time a detection and two poses on each runtime that works.

    :return: milliseconds, medians of interleaved rounds; of one round if that takes long.
    :raises RuntimeUnavailable: no runtime works.
    """
    spec = package.wholebody
    inputs = [
        (package.detector_path, _noise(spec.detector.input_size)),
        (package.estimator_path, _noise(spec.estimator.input_size)),
    ]
    opened: dict[Backend, list[Runtime]] = {}
    failures = []
    for name in backends:
        try:
            runtimes = [open_runtime(path, backend_type=name) for path, _ in inputs]
            for runtime, (_, batch) in zip(runtimes, inputs, strict=True):
                runtime.run(batch)
            opened[name] = runtimes
        except Exception as error:  # each runtime raises its own types; another runtime may work
            failures.append(f'{name}: {error}')
    if not opened:
        raise RuntimeUnavailable(f'no runtime runs {package.model_version}: {"; ".join(failures)[:600]}')
    times: dict[Backend, list[float]] = {name: [] for name in opened}
    begun = time.perf_counter()
    for done in range(_ROUNDS):
        if done and time.perf_counter() - begun > _MEASURING_SECONDS:
            break
        for name, (detector, estimator) in opened.items():
            start = time.perf_counter()
            detector.run(inputs[0][1])
            for _ in range(2):
                estimator.run(inputs[1][1])
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: round(median(values), 1) for name, values in times.items()}


def _noise(size: tuple[int, int]) -> Any:
    return np.random.default_rng(0).normal(0, 1, (1, 3, size[1], size[0])).astype(np.float32)


def _key(package: ModelPackage, backends: list[Backend]) -> str:
    """Return a hash of everything that a measurement depends on: networks, machine, usable CPUs, versions."""
    spec = package.wholebody
    versions = [installed_version(name) for name in backends]
    parts = [spec.detector.sha256, spec.estimator.sha256, _processor(), usable_cpus(), *backends, *versions]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@memoized
def _processor() -> str:
    return f'{platform.processor()} {platform.machine()} {" ".join(sorted(cpu_flags()))}'


def _measured(cache: Path | None) -> dict[str, Any]:
    try:
        known = json.loads((cache / _MEASUREMENTS).read_bytes()) if cache is not None else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(cache: Path | None, measured: dict[str, Any]) -> None:
    if cache is None:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f'{_MEASUREMENTS}.partial'
        partial.write_text(json.dumps(measured))
        partial.replace(cache / _MEASUREMENTS)
    except OSError as error:
        log.warning('%s cannot be written: %s', cache, error.strerror)
