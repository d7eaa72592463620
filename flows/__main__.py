"""`python -m flows VERB`."""

from flows.cli.program import main

if __name__ == "__main__":
    main()
