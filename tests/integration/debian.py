"""Programs of Debian that tests need."""

import os
import shutil
import subprocess
from pathlib import Path


def program(name: str, package: str) -> Path:
    """A program of this machine; if it is missing, its package is installed through apt.

    :raises AssertionError: it is missing and cannot be installed.
    """
    if found := _find(name):
        return found
    reason = 'installing it takes apt-get, as root'
    if shutil.which('apt-get') and os.geteuid() == 0:
        for command in (['update'], ['install', '--yes', '--no-install-recommends', package]):
            ended = subprocess.run(
                ['apt-get', '--quiet', '-o', 'DPkg::Lock::Timeout=300', *command],
                env=os.environ | {'DEBIAN_FRONTEND': 'noninteractive'},
                capture_output=True,
                text=True,
                check=False,
            )
            reason = ended.stderr.strip()
        if found := _find(name):
            return found
    raise AssertionError(f'{name}, of the package {package}, is missing: {reason}')


def _find(name: str) -> Path | None:
    found = shutil.which(name, path=f'{os.environ.get("PATH", "")}:/usr/sbin:/sbin')
    return None if found is None else Path(found)
