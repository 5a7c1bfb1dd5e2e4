"""`python -m ndoo` is the command `ndoo`."""

from ndoo.cli.main import main

if __name__ == "__main__":
    main()
