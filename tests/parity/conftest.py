"""Where eli5 is not installed there is nothing to compare with; `tox -e parity` installs it."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("eli5") else ["test_eli5.py"]
