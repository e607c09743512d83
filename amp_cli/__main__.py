"""Where `amp` begins: ready to be told to stop before anything else is imported."""

from amp_cli import stopping


def main() -> None:
    """Run the command line."""
    with stopping.heard():
        from amp_cli.main import main as run

        run()


if __name__ == "__main__":
    main()
