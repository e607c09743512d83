"""One stage of a pipeline: `python -m amp_cli.commands.stage WORDS`, an `amp` command that ends with its starter.

In a process of its own each stage has the memory of the machine and of its GPUs, and does what its line does alone.
"""

import sys


def main() -> None:
    """Be the command that the words mean; the pipeline says what comes next, what went wrong, and what is kept."""
    from amp_cli import main, stopping, ui
    from amp_cli.commands.defaults import forget_defaults
    from amp_cli.launching import end_with_parent

    end_with_parent()
    stopping.leave_it_to_parent()
    sys.argv[0] = "amp"
    commands = [one.name for one in main.app.registered_commands] + [one.name for one in main.app.registered_groups]
    forget_defaults(map(str, commands))  # the pipeline's file says all
    with ui.within_a_loop():
        main.main()


if __name__ == "__main__":
    main()
