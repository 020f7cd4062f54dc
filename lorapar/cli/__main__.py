"""`python -m lorapar.cli`: the `lorapar` command without the console script."""

from lorapar.cli import main

if __name__ == "__main__":
    main()
