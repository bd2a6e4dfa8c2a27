"""`python -m autogaze`: the command line."""

from autogaze.cli import main

if __name__ == "__main__":
    main()
