"""The precision of rtmlib's own classes."""

from typing import TypeVar

import openvino
from rtmlib import YOLOX, RTMPose

T = TypeVar('T', YOLOX, RTMPose)


def computing_f32(tool: T) -> T:
    """Make a tool of rtmlib compute in f32, and return it.

    rtmlib leaves the precision to OpenVINO, which prefers bf16 on CPUs that have it; there the network is compiled
    again.
    """
    if tool.backend != 'openvino' or tool.compiled_model.get_property('INFERENCE_PRECISION_HINT') == openvino.Type.f32:
        return tool
    core = openvino.Core()
    config = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    tool.compiled_model = core.compile_model(core.read_model(tool.onnx_model), 'CPU', config)
    tool._ov_outputs = list(tool.compiled_model.outputs)
    return tool
