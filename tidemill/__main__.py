"""`python -m tidemill` is `tidemill`."""

from importlib import import_module

if __name__ == "__main__":
    import_module("tidemill.cli.main").main()
