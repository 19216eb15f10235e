"""`python -m backflip` is `backflip`."""

from backflip.cli import main

if __name__ == "__main__":
    main()
