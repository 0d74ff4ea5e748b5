"""Valid and invalid model packages."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.package import Identity, file_sha256
from mock.test_card.build import build_package

Files = dict[str, bytes]


def make_package(path: Path, version: str = '1.0', name: str = 'test-card') -> Path:
    """Make a valid package with the networks of the test card."""
    build_package(path, identity=Identity(version=version), name=name)
    return path


def embedded_files() -> Files:
    with zipfile.ZipFile(EMBEDDED_PACKAGE) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Make a copy of the embedded package with a changed model.json."""
    files = embedded_files()
    description = json.loads(files['model.json'])
    change(description)
    return write_zip(path, files | {'model.json': json.dumps(description).encode()})


def with_network(path: Path, role: str, network: Path) -> Path:
    """Make a copy of the embedded package with another network and its hash."""
    name = {'detector': 'det.onnx', 'estimator': 'pose.onnx'}[role]

    def change(description: dict[str, Any]) -> None:
        description['wholebody'][role]['sha256'] = file_sha256(network)

    altered(path, change)
    with zipfile.ZipFile(path) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    return write_zip(path, files | {name: network.read_bytes()})


def constant_network(path: Path, outputs: dict[str, np.ndarray[Any, Any]], size: tuple[int, int]) -> Path:
    """Make a network with constant outputs.

    :param size: width and height of its input.
    """
    nodes, constants, infos = [], [], []
    constants.append(numpy_helper.from_array(np.zeros(1, dtype=np.float32), 'nothing'))
    nodes.append(helper.make_node('ReduceMax', ['input'], ['peak'], axes=[0, 1, 2, 3], keepdims=0))
    nodes.append(helper.make_node('Mul', ['peak', 'nothing'], ['zero']))
    for name, value in outputs.items():
        constants.append(numpy_helper.from_array(value.astype(np.float32), f'{name}_value'))
        nodes.append(helper.make_node('Add', [f'{name}_value', 'zero'], [name]))
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
    source = helper.make_tensor_value_info('input', TensorProto.FLOAT, [1, 3, size[1], size[0]])
    graph = helper.make_graph(nodes, 'constant', [source], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 11)])
    model.ir_version = 6
    onnx.save(model, path)
    return path
