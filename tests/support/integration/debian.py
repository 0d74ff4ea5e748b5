"""Debian programs that tests need."""

import os
import shutil
import subprocess
from pathlib import Path


def program(name: str, package: str) -> Path:
    """Return the path of a program; install its package through apt if the program is missing.

    :raises AssertionError: the program is missing and cannot be installed.
    """
    if found := _find(name):
        return found
    reason = install(package)
    if found := _find(name):
        return found
    raise AssertionError(f'{name} from the package {package} is missing: {reason}')


def install(package: str) -> str:
    """Try to install a package through apt.

    :return: errors of apt-get, or the reason why it was not called.
    """
    if not shutil.which('apt-get') or os.geteuid() != 0:
        return 'the installation needs apt-get and the user root'
    errors = ''
    for command in (['update'], ['install', '--yes', '--no-install-recommends', package]):
        ended = subprocess.run(
            ['apt-get', '--quiet', '-o', 'DPkg::Lock::Timeout=300', *command],
            env=os.environ | {'DEBIAN_FRONTEND': 'noninteractive'},
            capture_output=True,
            text=True,
            check=False,
        )
        errors = ended.stderr.strip()
    return errors


def _find(name: str) -> Path | None:
    found = shutil.which(name, path=f'{os.environ.get("PATH", "")}:/usr/sbin:/sbin')
    return None if found is None else Path(found)
