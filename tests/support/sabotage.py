"""Faults of a node's inference runtime on demand: its ONNX Runtime sessions fail, are slow or wait."""

from pathlib import Path
from typing import Final

from benchmarks.support.waiting import eventually

_SITE: Final = """
import time
from pathlib import Path

import onnxruntime

STATE = Path(__file__).with_name('state')
HELD = Path(__file__).with_name('held')


class Session(onnxruntime.InferenceSession):
    def __init__(self, *arguments, **options):
        if STATE.read_text() == 'gone':
            raise RuntimeError('CUDA failure 100: no CUDA-capable device is detected')
        super().__init__(*arguments, **options)

    def run(self, *arguments, **options):
        while STATE.read_text() == 'hold':
            HELD.touch()
            time.sleep(0.01)
        word, _, seconds = STATE.read_text().partition(' ')
        if word == 'sleep':
            time.sleep(float(seconds))
        elif word != 'sound':
            raise RuntimeError('CUDA failure 700: an illegal memory access was encountered')
        return super().run(*arguments, **options)


onnxruntime.InferenceSession = Session
"""


class Sabotage:
    """Control of the faults. The node loads them as `sitecustomize`, which Python imports at its start.

    :param folder: folder for that module, which the node has in PYTHONPATH.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / 'sitecustomize.py').write_text(_SITE)
        self._state = folder / 'state'
        self._held = folder / 'held'
        self.settings: dict[str, object] = {'PYTHONPATH': folder, 'BACKEND_TYPE': 'onnxruntime'}
        """Settings of the node that gets the faults."""
        self.end()

    def end(self) -> None:
        """End all faults."""
        self._say('sound')

    def slow(self, seconds: float) -> None:
        """Delay each run of a network by a time in seconds."""
        self._say(f'sleep {seconds}')

    def hold(self) -> None:
        """Let runs begin but not end, until the next call of another method."""
        self._held.unlink(missing_ok=True)
        self._say('hold')

    def wait_until_held(self) -> None:
        """Wait until a run has begun after the call of `hold`."""
        eventually(self._held.exists, 'a run of a network has begun')

    def broken(self) -> None:
        """Make runs fail; networks can still be loaded."""
        self._say('broken')

    def gone(self) -> None:
        """Make runs and the loading of networks fail."""
        self._say('gone')

    def _say(self, word: str) -> None:
        fresh = self._state.with_suffix('.new')
        fresh.write_text(word)
        fresh.replace(self._state)
