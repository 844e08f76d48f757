"""Run as python -m memoserve."""

from memoserve.cli import main

if __name__ == "__main__":
    main()
