"""One call over ONNX Runtime, OpenVINO and OpenCV DNN.

The three are imported only when asked for, since each costs start-up time and memory.
"""

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from .errors import RuntimeUnavailable

FloatArray = NDArray[np.float32]
BackendType = Literal['auto', 'onnxruntime', 'openvino', 'opencv']

_PACKAGES: Final = {'onnxruntime': 'onnxruntime', 'openvino': 'openvino', 'opencv': 'cv2'}


class Runtime(ABC):
    """A network loaded into an inference runtime; calls must not overlap.

    :param name: the runtime and what it runs on, e.g. `onnxruntime on CPUExecutionProvider`.
    """

    name: str

    @abstractmethod
    def run(self, batch: FloatArray) -> list[NDArray[Any]]:
        """Infer.

        :param batch: (N, 3, H, W), float32, contiguous.
        :return: the outputs in the order of the graph.
        """


def open_runtime(path: Path, *, backend_type: BackendType = 'auto', device: str = 'cpu') -> Runtime:
    """Load an ONNX file.

    :param backend_type: `auto` takes the first installed of ONNX Runtime, OpenVINO and OpenCV that knows the device.
    :param device: see the setting DEVICE.
    :raises RuntimeUnavailable: the runtime is not installed, lacks the device, or rejects the network.
    """
    name = choose_backend(device) if backend_type == 'auto' else backend_type
    if importlib.util.find_spec(_PACKAGES[name]) is None:
        raise RuntimeUnavailable(f'BACKEND_TYPE={name}: the package {_PACKAGES[name]} is not installed')
    opener: Callable[[Path, str], Runtime] = {'onnxruntime': _OnnxRuntime, 'openvino': _OpenVino, 'opencv': _OpenCv}[
        name
    ]
    try:
        return opener(path, device)
    except RuntimeUnavailable:
        raise
    except Exception as error:
        reason = ' '.join(str(error).split())[:300]
        raise RuntimeUnavailable(f'{name} on {device} cannot load {path.name}: {reason}') from error


def choose_backend(device: str) -> str:
    """The runtime that `auto` stands for on a device.

    :raises RuntimeUnavailable: none is installed that knows the device.
    """
    for name in ('openvino', 'onnxruntime') if device in ('gpu', 'npu') else ('onnxruntime', 'openvino', 'opencv'):
        if importlib.util.find_spec(_PACKAGES[name]) is not None:
            return name
    raise RuntimeUnavailable(f'no inference runtime is installed for DEVICE={device}')


def usable_cpus() -> int:
    """The number of CPUs that this process may use: its affinity, bounded by its cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    try:
        quota, period = Path('/sys/fs/cgroup/cpu.max').read_text(encoding='ascii').split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no quota ('max')
        pass
    return count


class _OnnxRuntime(Runtime):
    def __init__(self, path: Path, device: str) -> None:
        import onnxruntime

        provider, options = _execution_provider(device)
        if provider not in onnxruntime.get_available_providers():
            raise RuntimeUnavailable(f'DEVICE={device}: this build of onnxruntime has no {provider}')
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = usable_cpus()
        session_options.enable_cpu_mem_arena = False  # keeps the memory flat and costs no speed
        # The idle session's spinning threads would take the cores from the other network's.
        session_options.add_session_config_entry('session.force_spinning_stop', '1')
        session_options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), session_options, providers=[(provider, options)])
        actual = self._session.get_providers()[0]
        if actual != provider:
            raise RuntimeUnavailable(f'DEVICE={device}: onnxruntime fell back to {actual}')
        self._input = self._session.get_inputs()[0].name
        self.name = f'onnxruntime on {actual}'

    def run(self, batch: FloatArray) -> list[NDArray[Any]]:
        return cast(list[NDArray[Any]], self._session.run(None, {self._input: batch}))


def _execution_provider(device: str) -> tuple[str, dict[str, str]]:
    kind, _, number = device.partition(':')
    try:
        provider = {
            'cpu': 'CPUExecutionProvider',
            'cuda': 'CUDAExecutionProvider',
            'tensorrt': 'TensorrtExecutionProvider',
            'mps': 'CoreMLExecutionProvider',
        }[kind]
    except KeyError:
        raise RuntimeUnavailable(f'DEVICE={device}: onnxruntime does not know it; set BACKEND_TYPE=openvino') from None
    return provider, {'device_id': number} if number else {}


class _OpenVino(Runtime):
    def __init__(self, path: Path, device: str) -> None:
        import openvino

        if device not in ('cpu', 'gpu', 'npu'):
            raise RuntimeUnavailable(f'DEVICE={device}: openvino knows cpu, gpu and npu')
        core = openvino.Core()
        # Stated, since OpenVINO takes bfloat16 by itself where the CPU has it.
        config = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
        if device == 'cpu':
            config['INFERENCE_NUM_THREADS'] = str(usable_cpus())
        model = core.compile_model(core.read_model(str(path)), device.upper(), config)
        self._outputs = list(model.outputs)
        self._request = model.create_infer_request()
        self.name = f'openvino on {device.upper()}'

    def run(self, batch: FloatArray) -> list[NDArray[Any]]:
        results = self._request.infer({0: batch})
        return [np.array(results[output]) for output in self._outputs]


class _OpenCv(Runtime):
    def __init__(self, path: Path, device: str) -> None:
        import cv2

        if device != 'cpu':
            raise RuntimeUnavailable(f'DEVICE={device}: opencv runs on cpu only here')
        self._network = cv2.dnn.readNetFromONNX(str(path))
        self._outputs = self._network.getUnconnectedOutLayersNames()
        self.name = 'opencv on CPU'

    def run(self, batch: FloatArray) -> list[NDArray[Any]]:
        self._network.setInput(batch)
        return list(self._network.forward(self._outputs))
