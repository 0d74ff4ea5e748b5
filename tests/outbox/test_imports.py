"""What importing the outbox loads."""

import pkgutil
import subprocess
import sys

from detector import outbox

HEAVY = ('fastapi', 'learning_loop_node', 'onnxruntime', 'openvino', 'rtmlib', 'starlette')


def test_the_outbox_loads_neither_the_web_framework_nor_a_runtime() -> None:
    """A process that only looks at the outbox starts without FastAPI, upstream's package and inference runtimes."""
    modules = [f'detector.outbox.{module.name}' for module in pkgutil.iter_modules(outbox.__path__)]
    assert 'detector.outbox.collector' in modules
    script = f'import sys, {", ".join(modules)}; print(*sorted(set(sys.modules) & set({HEAVY!r})))'
    loaded = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []
