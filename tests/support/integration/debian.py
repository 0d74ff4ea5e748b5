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
    reason = install(package)
    if found := _find(name):
        return found
    raise AssertionError(f'{name}, of the package {package}, is missing: {reason}')


def install(package: str) -> str:
    """Install a package through apt, if that is possible here.

    :return: what apt-get complained about, or why it was not asked.
    """
    if not shutil.which('apt-get') or os.geteuid() != 0:
        return 'installing it takes apt-get, as root'
    complaints = ''
    for command in (['update'], ['install', '--yes', '--no-install-recommends', package]):
        ended = subprocess.run(
            ['apt-get', '--quiet', '-o', 'DPkg::Lock::Timeout=300', *command],
            env=os.environ | {'DEBIAN_FRONTEND': 'noninteractive'},
            capture_output=True,
            text=True,
            check=False,
        )
        complaints = ended.stderr.strip()
    return complaints


def _find(name: str) -> Path | None:
    found = shutil.which(name, path=f'{os.environ.get("PATH", "")}:/usr/sbin:/sbin')
    return None if found is None else Path(found)
