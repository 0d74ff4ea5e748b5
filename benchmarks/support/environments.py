"""Virtual environments for programs that cannot share ours. They are created once and reused."""

import os
import shutil
import subprocess
from pathlib import Path

from platformdirs import user_cache_path

from .processes import PROJECT


def python_with(name: str, *requirements: str) -> Path:
    """Return the interpreter of an environment with these requirements.

    :param name: name of the environment; change it with the requirements.
    """
    folder = user_cache_path('wholebody-tests') / name
    python = folder / 'bin' / 'python'
    complete = folder / 'complete'
    if not complete.exists():
        uv = os.environ.get('UV') or shutil.which('uv')
        assert uv, 'uv is needed to make environments for integration tests'
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([uv, 'venv', '--quiet', '--python', '3.11', folder], check=True)
        install = [uv, 'pip', 'install', '--quiet', '--compile-bytecode', '--python', str(python)]
        # In the checkout, uv reads which requirements of packages pyproject.toml sets aside.
        subprocess.run([*install, *requirements], cwd=PROJECT, check=True)
        complete.touch()
    return python
