"""`python -m detector` is the command `wholebody`."""

from detector.cli.main import main

main()
