"""Compare the resident memory of an idle node with that of its imports alone.

    uv run python -m benchmarks.idle_memory

Linux only, since it reads /proc. The benchmark starts real processes and measures them 5 seconds after they are ready.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from .support.processes import clean_environment, running_node

ROUNDS = 3
IDLE_SECONDS = 5
IMPORTS = 'import cv2, fastapi, learning_loop_node, numpy, onnxruntime, rtmlib, socketio, uvicorn'


def resident_mib(pid: int) -> float:
    status = Path(f'/proc/{pid}/status').read_text()
    return int(status.split('VmRSS:')[1].split()[0]) / 1024


def imports_alone() -> float:
    """Return the MiB of a Python process that has imported only what the node needs."""
    code = f'{IMPORTS}; print("ready", flush=True); input()'
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, '-c', code],
            env=clean_environment(DATA_FOLDER=folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        while process.stdout.readline().strip() != 'ready':
            pass
        result = resident_mib(process.pid)
        process.stdin.write('\n')
    return result


def idle_node() -> float:
    """Return the MiB of a node that serves the test card model and gets no requests."""
    with tempfile.TemporaryDirectory() as folder, running_node(Path(folder)) as node:
        time.sleep(IDLE_SECONDS)
        return resident_mib(node.process.pid)


def main() -> None:
    nodes, imports = [], []
    for _ in range(ROUNDS):
        imports.append(imports_alone())
        nodes.append(idle_node())
    ours, theirs = median(nodes), median(imports)
    print(f'imports alone {theirs:.0f} MiB, idle node {ours:.0f} MiB: {ours / theirs:.2f}×')


if __name__ == '__main__':
    main()
