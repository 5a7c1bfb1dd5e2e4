"""The command `ndoo`, also as `python -m ndoo`."""

import sys


def main() -> None:
    """Ctrl-C while the command is still being imported ends it without a word: nothing is begun."""
    try:
        from ndoo.cli.main import main as run  # noqa: PLC0415  (caught while it is)
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
