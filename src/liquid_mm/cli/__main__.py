"""`python -m liquid_mm.cli` is the command `liquid`."""

from liquid_mm.cli import main

main()
