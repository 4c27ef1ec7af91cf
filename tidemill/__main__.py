"""`python -m tidemill` is `tidemill`."""

from importlib import import_module

import_module("tidemill.cli.main").main()
