"""A node whose inference runtime fails or dawdles at our word, at the boundary of ONNX Runtime's sessions."""

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
    """Python runs `sitecustomize` of PYTHONPATH in each process that it starts.

    :param folder: for that module.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / 'sitecustomize.py').write_text(_SITE)
        self._state = folder / 'state'
        self._held = folder / 'held'
        self.settings: dict[str, object] = {'PYTHONPATH': folder, 'BACKEND_TYPE': 'onnxruntime'}
        """Of the node that is to suffer."""
        self.end()

    def end(self) -> None:
        """Let the runtime work."""
        self._say('sound')

    def slow(self, seconds: float) -> None:
        """Let each run of a network take so long."""
        self._say(f'sleep {seconds}')

    def hold(self) -> None:
        """Let runs begin, and end only after the next word."""
        self._held.unlink(missing_ok=True)
        self._say('hold')

    def wait_until_held(self) -> None:
        """Wait until a run has begun since `hold`."""
        eventually(self._held.exists, 'a run of a network has begun')

    def broken(self) -> None:
        """Let runs fail; networks can be loaded."""
        self._say('broken')

    def gone(self) -> None:
        """Let runs and loading fail."""
        self._say('gone')

    def _say(self, word: str) -> None:
        fresh = self._state.with_suffix('.new')
        fresh.write_text(word)
        fresh.replace(self._state)
