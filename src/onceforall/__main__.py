"""``python -m onceforall`` is the command ``ofa``."""

from onceforall.cli import main

main()
