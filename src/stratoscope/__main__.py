"""`python -m stratoscope` is the command line."""

from stratoscope.cli import main

main()
