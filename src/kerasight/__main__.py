"""``python -m kerasight``: the command where no script of it is on the path."""

from kerasight.cli import main

if __name__ == "__main__":
    main()
