"""``python -m sightline.cli``: the command where no script of it is on the path."""

from sightline.cli import main

if __name__ == "__main__":
    main()
