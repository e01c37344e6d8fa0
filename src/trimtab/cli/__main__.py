"""`python -m trimtab.cli`: the command where no script is installed."""

from trimtab.cli.group import main

if __name__ == "__main__":
    main()
