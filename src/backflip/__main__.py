"""Where `backflip` and `python -m backflip` begin: Ctrl-C ends them quietly even while they are still being loaded."""


def main() -> None:
    """Run the command line."""
    try:
        from backflip.cli import main as run
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # as shells count a program that Ctrl-C ended
    run()


if __name__ == "__main__":
    main()
