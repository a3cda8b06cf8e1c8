"""The command `nntrain`, and `python -m nntrain`."""

import sys


def main() -> None:
    """Import the command line, and run it. Ctrl-C while it is imported ends it as ever, with exit code 130."""
    try:
        from nntrain.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
