"""The choice of runtime and precision for a package: what the settings demand, or the fastest on this machine."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from detector.errors import RuntimeUnavailable
from detector.models.package import ModelPackage
from detector.system import memory

from .agreement import Agreement, lowest_worst
from .measurement import Measured, fastest_in_f32, is_clearly_faster, recalled_or_measured
from .runtimes import Backend, Precision, Runtime, installed_for, is_installed, open_runtime
from .thresholds import Thresholds

log = logging.getLogger('wholebody.engine')

BackendType = Literal['auto', 'onnxruntime', 'openvino', 'opencv']
PrecisionSetting = Literal['auto', 'f32', 'bf16', 'f16']

_MEASURED_BYTES: Final = 10 * 1024**2
"""Size of the smallest package that is measured. Smaller ones are so fast that measuring costs more than it saves."""
_OPENVINO_BYTES: Final = 1536 * 1024**2
"""Memory below which OpenVINO is not chosen, in bytes. It keeps the values of all layers and compiles for each batch
size: a node takes up to 1.1 GB with it and the starter model, and up to 0.4 GB with ONNX Runtime."""
SMALL_BATCH: Final = 2
"""Persons per inference on the CPU with less memory than that; on a CPU more persons per inference gain little."""


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
    agreement: float,
    thresholds: Thresholds,
    cache: Path | None = None,
) -> Choice:
    """Choose runtime and precision for a package.

    On the CPU with less than 1.5 GiB of memory, ONNX Runtime is chosen. Otherwise the installed runtimes are timed on
    the networks of the package once, in f32 and in each lower precision that the package allows and the device
    supports. The fastest pair is chosen whose keypoints agree with those of f32, and the result is kept. Only a
    measurement tells: bf16 gains a factor of two on some CPUs, and loses on others with the same flag.

    :param agreement: mean OKS to f32 from which a lower precision is chosen, see `Agreement.suffices`.
    :param thresholds: thresholds with which persons are found for the comparison.
    :param cache: folder that keeps the results. With it, compiled networks are kept in the folder of the package, and
        are removed with it.
    :raises RuntimeUnavailable: the demanded runtime or precision is missing, or no runtime is installed for the device.
    """
    demanded = _bounded(precision, package)
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

    if demanded in ('bf16', 'f16'):
        if backend_type == 'auto' and not is_installed('openvino'):
            raise RuntimeUnavailable(f'PRECISION={demanded} needs the package openvino, which is not installed')
        return choice('openvino' if backend_type == 'auto' else backend_type, demanded, f'PRECISION={demanded}')
    if little is not None and backend_type == 'auto' and is_installed('onnxruntime'):
        return choice('onnxruntime', 'f32', little)
    needs_f32 = '; the package requires f32' if precision == 'auto' and demanded == 'f32' else ''
    backends = _candidates(backend_type, device)
    reduced = demanded == 'auto' and 'openvino' in backends and is_installed('openvino')
    if _size(package) < _MEASURED_BYTES or (len(backends) == 1 and not reduced):
        usual = 'the default' if backend_type == 'auto' else f'BACKEND_TYPE={backend_type}'
        return choice(backends[0], 'f32', usual + needs_f32)
    found = recalled_or_measured(package, backends, device=device, reduced=reduced, thresholds=thresholds, cache=cache)
    best = _best(found, agreement)
    return choice(*best.pair, _reason(found, agreement) + needs_f32)


def _candidates(backend_type: BackendType, device: str) -> list[Backend]:
    """Return the runtimes to choose from, the usual one first."""
    if backend_type != 'auto':
        return [backend_type]
    installed = installed_for(device)
    # OpenCV is never the fastest
    return [name for name in installed if name != 'opencv'] or installed


def _best(found: Sequence[Measured], agreement: float) -> Measured:
    """Return the fastest pair that computes in f32 or agrees with it."""
    usual = fastest_in_f32(found)
    agreeing = [one for one in found if one.agreement is not None and one.agreement.suffices(agreement)]
    best = min(agreeing, key=lambda one: one.milliseconds, default=usual)
    return best if is_clearly_faster(best, usual) else usual


def _reason(found: Sequence[Measured], agreement: float) -> str:
    """Return what was measured, and for each faster precision whether it agrees with f32."""
    times = ', '.join(f'{one.pair} {one.milliseconds:.0f} ms' for one in found)
    verdicts = [f'{one.pair} {_verdict(one.agreement, agreement)}' for one in found if one.agreement is not None]
    return '; '.join([f'measured: {times} per frame of two persons', *verdicts])


def _verdict(found: Agreement, demanded: float) -> str:
    if not found.persons:
        return 'is not compared with f32, since this model finds no person in the photographs'
    if found.suffices(demanded):
        return f'agrees with f32 ({found})'
    return f'differs from f32 ({found}; PRECISION_AGREEMENT={demanded:g} allows {lowest_worst(demanded):.4g} at worst)'


def _little_memory() -> str | None:
    """Return what to log if this process may use little memory; None if it may use enough for each runtime."""
    usable = memory.usable()
    if usable is None or usable >= _OPENVINO_BYTES:
        return None
    return f'this process may use {usable >> 20} MiB of memory, and OpenVINO needs {_OPENVINO_BYTES >> 20} MiB'


def _bounded(precision: PrecisionSetting, package: ModelPackage) -> PrecisionSetting:
    if package.wholebody.precision == 'any' or precision == 'f32':
        return precision
    if precision != 'auto':
        log.warning('PRECISION=%s is ignored: %s requires f32', precision, package.model_version)
    return 'f32'


def _size(package: ModelPackage) -> int:
    return package.detector_path.stat().st_size + package.estimator_path.stat().st_size
