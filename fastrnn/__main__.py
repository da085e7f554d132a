"""`python -m fastrnn`: the command `fastrnn`."""

from fastrnn.cli import main

if __name__ == "__main__":
    main()
