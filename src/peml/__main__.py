"""`python -m peml`: the same as `peml`."""

from peml.cli import main

if __name__ == "__main__":
    main()
