"""Where KerasHub is not installed there is nothing to run; `tox -e hub` installs it."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("keras_hub") else ["test_keras_hub.py"]
