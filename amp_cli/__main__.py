"""Where `amp` begins: ready to be told to stop before anything else is imported."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # `python -m amp_cli`
    del sys.path[0]  # the current folder, whose yaml.py is not the library

from amp_cli import stopping


def main() -> None:
    """Run the command line."""
    with stopping.heard():
        from amp_cli.main import main as run

        run()


if __name__ == "__main__":
    main()
