"""`python -m mmembed` is the command `mmembed`."""

from mmembed.cli import main

main()
