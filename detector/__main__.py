"""Makes `python -m detector` the command `wholebody`."""

from detector.cli.main import main

main()
