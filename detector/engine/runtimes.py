"""One interface to ONNX Runtime, OpenVINO and OpenCV DNN.

A runtime is imported when it is opened, since each one costs start-up time and memory.
"""

import importlib.metadata
import importlib.util
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from detector.errors import InferenceFailed, RuntimeUnavailable
from detector.pose.pose import FloatArray

Backend = Literal['onnxruntime', 'openvino', 'opencv']
Precision = Literal['f32', 'bf16', 'f16']

_CAPABILITIES: Final[dict[Precision, str]] = {'f32': 'FP32', 'bf16': 'BF16', 'f16': 'FP16'}
"""Precisions by OpenVINO's names."""
_PACKAGES: Final[dict[Backend, str]] = {'onnxruntime': 'onnxruntime', 'openvino': 'openvino', 'opencv': 'cv2'}
_DISTRIBUTIONS: Final[dict[Backend, tuple[str, ...]]] = {
    'onnxruntime': ('onnxruntime', 'onnxruntime-gpu'),  # one package under two names: without and with CUDA
    'openvino': ('openvino',),
    'opencv': ('opencv-python-headless',),
}


class Runtime(ABC):
    """A network loaded into an inference runtime. Calls must not overlap.

    :param name: the runtime and its device, e.g. `onnxruntime on CPUExecutionProvider`.
    :param precision: precision of the computation.
    :param prepares_sizes: True if the first run with each batch size takes long.
    """

    name: str
    precision: Precision = 'f32'
    prepares_sizes: bool = False

    def run(self, batch: FloatArray) -> list[NDArray[Any]]:
        """Run the network.

        :param batch: (N, 3, H, W), float32, contiguous.
        :return: the outputs in the order of the graph.
        :raises InferenceFailed: the runtime raises an error.
        """
        try:
            return self._infer(batch)
        except InferenceFailed:  # from a runtime that wraps another
            raise
        except Exception as error:  # each runtime raises its own types
            raise InferenceFailed(f'{self.name} fails: {reason_of(error)}') from error

    def release(self) -> None:  # noqa: B027  # most runtimes keep nothing
        """Free the memory that is kept between inferences; the next inference allocates it again."""

    @abstractmethod
    def _infer(self, batch: FloatArray) -> list[NDArray[Any]]:
        """Run the network; any exception may be raised."""


def open_runtime(
    path: Path,
    *,
    backend_type: Backend = 'onnxruntime',
    device: str = 'cpu',
    precision: Precision = 'f32',
    compiled: Path | None = None,
) -> Runtime:
    """Load an ONNX file.

    :param device: see the setting DEVICE.
    :param compiled: folder for compiled networks, which make the next start fast; None: they are not kept.
    :raises RuntimeUnavailable: the runtime is not installed, lacks the device or precision, or rejects the network.
    """
    if not is_installed(backend_type):
        raise RuntimeUnavailable(f'BACKEND_TYPE={backend_type}: the package {_PACKAGES[backend_type]} is not installed')
    openers: dict[Backend, type[_OnnxRuntime | _OpenVino | _OpenCv]] = {
        'onnxruntime': _OnnxRuntime,
        'openvino': _OpenVino,
        'opencv': _OpenCv,
    }
    try:
        return openers[backend_type](path, device, precision, compiled)
    except RuntimeUnavailable:
        raise
    except Exception as error:
        # OpenCV supports the fewest operators
        remedy = '; set BACKEND_TYPE=onnxruntime or openvino' if backend_type == 'opencv' else ''
        raise RuntimeUnavailable(
            f'{backend_type} on {device} cannot load {path.name}: {reason_of(error)}{remedy}'
        ) from error


def reason_of(error: Exception) -> str:
    """Return the text of a runtime's error in one line of at most 300 characters, or its type."""
    return ' '.join(str(error).split())[:300] or type(error).__name__


def is_installed(backend_type: Backend) -> bool:
    return importlib.util.find_spec(_PACKAGES[backend_type]) is not None


def installed_version(backend_type: Backend) -> str:
    """Return name and version of the distribution of a runtime, e.g. `onnxruntime-gpu 1.31.1`.

    :raises RuntimeUnavailable: the runtime is not installed.
    """
    names = _DISTRIBUTIONS[backend_type]
    for name in names:
        try:
            return f'{name} {importlib.metadata.version(name)}'
        except importlib.metadata.PackageNotFoundError:
            continue
    raise RuntimeUnavailable(f'{" or ".join(names)} is not installed')


def installed_versions() -> list[str]:
    """Return name and version of the distributions of all installed runtimes."""
    found = []
    for name in _DISTRIBUTIONS:
        with suppress(RuntimeUnavailable):
            found.append(installed_version(name))
    return found


def installed_for(device: str) -> list[Backend]:
    """Return the installed runtimes that support a device, the default first.

    :raises RuntimeUnavailable: no runtime that supports the device is installed.
    """
    known: tuple[Backend, ...] = {
        'cpu': ('onnxruntime', 'openvino', 'opencv'),
        'gpu': ('openvino',),
        'npu': ('openvino',),
    }.get(device, ('onnxruntime',))  # type: ignore[assignment]  # a tuple of literals
    found = [name for name in known if is_installed(name)]
    if not found:
        raise RuntimeUnavailable(f'no inference runtime is installed for DEVICE={device}')
    return found


def openvino_capabilities(device: str) -> list[str]:
    """Return the precisions that OpenVINO supports on a device, by its names, e.g. `FP32`, `BF16`."""
    import openvino

    return list(openvino.Core().get_property(device.upper(), 'OPTIMIZATION_CAPABILITIES'))


def precisions(backend_type: Backend, device: str) -> list[Precision]:
    """Return the precisions in which a runtime computes on a device, f32 first.

    :raises RuntimeUnavailable: OpenVINO does not know the device.
    """
    if backend_type != 'openvino':
        return ['f32']
    try:
        capabilities = openvino_capabilities(device)
    except Exception as error:  # OpenVINO raises its own types
        raise RuntimeUnavailable(f'DEVICE={device}: openvino cannot use it: {reason_of(error)}') from error
    return [precision for precision, name in _CAPABILITIES.items() if name in capabilities]


def cpu_flags() -> frozenset[str]:
    """Return the features of the CPU by Linux's names, e.g. `amx_bf16`; an empty set if they cannot be read."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace').splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(':')[2] for line in lines if line.startswith('flags')), '').split())


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use.

    The number is that of its affinity, bounded by the quota of its cgroup and by OMP_NUM_THREADS, by which Ray and
    other schedulers assign CPUs to a process.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    try:
        quota, period = Path('/sys/fs/cgroup/cpu.max').read_text(encoding='ascii').split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no quota ('max')
        pass
    share = os.environ.get('OMP_NUM_THREADS', '')
    return min(count, int(share)) if share.isdecimal() and int(share) else count


def _only_f32(backend_type: Backend, precision: Precision) -> None:
    if precision != 'f32':
        raise RuntimeUnavailable(f'PRECISION={precision}: {backend_type} supports f32 only; set BACKEND_TYPE=openvino')


class _OnnxRuntime(Runtime):
    def __init__(self, path: Path, device: str, precision: Precision, compiled: Path | None) -> None:
        import onnxruntime

        _only_f32('onnxruntime', precision)
        provider, options = _execution_provider(device, compiled)
        if device.startswith(('cuda', 'tensorrt')):
            onnxruntime.preload_dlls()  # CUDA and cuDNN from their Python packages, if installed
        if provider not in onnxruntime.get_available_providers():
            raise RuntimeUnavailable(f'DEVICE={device}: this build of onnxruntime has no {provider}')
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = usable_cpus()
        session_options.enable_cpu_mem_arena = False  # keeps the memory flat and costs no speed
        # Spinning threads of an idle session would take the cores from the other network.
        session_options.add_session_config_entry('session.force_spinning_stop', '1')
        session_options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), session_options, providers=[(provider, options)])
        actual = self._session.get_providers()[0]
        if actual != provider:
            raise RuntimeUnavailable(f'DEVICE={device}: onnxruntime fell back to {actual}')
        self._input = self._session.get_inputs()[0].name
        self.name = f'onnxruntime on {actual}'

    def _infer(self, batch: FloatArray) -> list[NDArray[Any]]:
        return cast(list[NDArray[Any]], self._session.run(None, {self._input: batch}))


def _execution_provider(device: str, compiled: Path | None) -> tuple[str, dict[str, str]]:
    kind, _, number = device.partition(':')
    try:
        provider = {
            'cpu': 'CPUExecutionProvider',
            'cuda': 'CUDAExecutionProvider',
            'tensorrt': 'TensorrtExecutionProvider',
            'mps': 'CoreMLExecutionProvider',
        }[kind]
    except KeyError:
        raise RuntimeUnavailable(
            f'DEVICE={device}: onnxruntime does not support it; set BACKEND_TYPE=openvino'
        ) from None
    options = {'device_id': number} if number else {}
    if kind == 'tensorrt' and compiled is not None:
        options |= {'trt_engine_cache_enable': '1', 'trt_engine_cache_path': str(compiled)}
    return provider, options


class _OpenVino(Runtime):
    prepares_sizes = True

    def __init__(self, path: Path, device: str, precision: Precision, compiled: Path | None) -> None:
        import openvino

        if device not in ('cpu', 'gpu', 'npu'):
            raise RuntimeUnavailable(f'DEVICE={device}: openvino supports cpu, gpu and npu')
        core = openvino.Core()
        capabilities = openvino_capabilities(device)
        if _CAPABILITIES[precision] not in capabilities:
            raise RuntimeUnavailable(f'PRECISION={precision}: this {device} supports {", ".join(capabilities)}')
        # Stated explicitly, since OpenVINO defaults to bfloat16 on CPUs that have it.
        config = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision}
        if device == 'cpu':
            config['INFERENCE_NUM_THREADS'] = str(usable_cpus())
        if compiled is not None:
            config['CACHE_DIR'] = str(compiled)
        self._model = core.compile_model(core.read_model(str(path)), device.upper(), config)
        self._outputs = list(self._model.outputs)
        self._request = self._model.create_infer_request()
        self.precision = precision
        self.name = f'openvino on {device.upper()}'

    def _infer(self, batch: FloatArray) -> list[NDArray[Any]]:
        results = self._request.infer({0: batch}, share_inputs=True)
        return [np.array(results[output]) for output in self._outputs]

    def release(self) -> None:
        if self.name == 'openvino on CPU':  # the plugins of other devices keep their buffers
            self._model.release_memory()


class _OpenCv(Runtime):
    def __init__(self, path: Path, device: str, precision: Precision, compiled: Path | None) -> None:
        _only_f32('opencv', precision)
        if device != 'cpu':
            raise RuntimeUnavailable(f'DEVICE={device}: opencv supports cpu only')
        self._onnx = np.frombuffer(_with_explicit_hard_sigmoids(path), dtype=np.uint8)
        self.name = 'opencv on CPU'
        self._load()

    def _load(self) -> None:
        import cv2

        self._network = cv2.dnn.readNetFromONNX(self._onnx)
        self._names = self._network.getUnconnectedOutLayersNames()
        self._sizes: list[int] | None = None

    def _infer(self, batch: FloatArray) -> list[NDArray[Any]]:
        """Run the network; load it again if its outputs have grown since the first run.

        OpenCV 5.0 computes tensors of variable size, such as the boxes after NonMaxSuppression, in the memory of the
        first run: larger ones are wrong or raise an error.
        """
        import cv2

        try:
            outputs = self._forward(batch)
            grown = self._sizes is not None and any(
                output.size > size for output, size in zip(outputs, self._sizes, strict=True)
            )
        except cv2.error:
            if self._sizes is None:
                raise
            grown = True
        if grown:
            self._load()
            outputs = self._forward(batch)
        self._sizes = self._sizes or [output.size for output in outputs]
        return outputs

    def _forward(self, batch: FloatArray) -> list[NDArray[Any]]:
        self._network.setInput(batch)
        return [np.asarray(output) for output in self._network.forward(self._names)]


def _with_explicit_hard_sigmoids(path: Path) -> bytes:
    """Return an ONNX file with max(0, min(1, alpha x + beta)) in place of each HardSigmoid.

    OpenCV 5.0 takes a HardSigmoid before any product for a part of a hard swish, also in the gates of RTMW's channel
    attention.
    """
    import onnx
    from onnx.helper import get_node_attr_value, make_node

    def constant(name: str, value: float) -> onnx.NodeProto:
        return make_node('Constant', [], [name], value=onnx.numpy_helper.from_array(np.array(value, dtype=np.float32)))

    model = onnx.load(path)
    nodes = []
    for node in model.graph.node:
        if node.op_type != 'HardSigmoid':
            nodes.append(node)
            continue
        given = {attribute.name: get_node_attr_value(node, attribute.name) for attribute in node.attribute}
        (result,) = node.output
        names = {key: f'{result}/{key}' for key in ('alpha', 'beta', 'zero', 'one', 'product', 'sum')}
        nodes += [
            constant(names['alpha'], given.get('alpha', 0.2)),
            constant(names['beta'], given.get('beta', 0.5)),
            constant(names['zero'], 0),
            constant(names['one'], 1),
            make_node('Mul', [node.input[0], names['alpha']], [names['product']]),
            make_node('Add', [names['product'], names['beta']], [names['sum']]),
            make_node('Clip', [names['sum'], names['zero'], names['one']], [result]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())
