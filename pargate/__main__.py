"""`python -m pargate`."""

from pargate.cli.app import main

if __name__ == "__main__":
    main()
