"""`python -m coe.cli`, where the `coe` command is not on the path."""

from coe.cli import main

if __name__ == "__main__":
    main()
