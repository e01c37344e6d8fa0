"""`python -m trimtab.cli` runs the command if no script is installed."""

from trimtab.cli.group import main

if __name__ == "__main__":
    main()
