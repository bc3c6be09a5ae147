"""`python -m onnxtune` is the command line."""

from onnxtune.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
