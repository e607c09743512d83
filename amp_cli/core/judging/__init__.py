"""The kinds of judges behind `amp_cli.core.judge`, and their prompts and costs."""
