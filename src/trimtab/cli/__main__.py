"""Run the command line as `python -m trimtab.cli`, if the script `trimtab` is not installed."""

from trimtab.cli.group import main

if __name__ == "__main__":
    main()
