"""Run the command line as `python -m trimtab.cli`, for the case that the script `trimtab` is not installed."""

from trimtab.cli.group import main

if __name__ == "__main__":
    main()
