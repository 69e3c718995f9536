"""`python -m clipft`."""

from clipft.cli import main

if __name__ == "__main__":
    main()
