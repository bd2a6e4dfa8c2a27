"""`python -m autogaze`: the command line."""

from autogaze.cli.app import main

if __name__ == "__main__":
    main()
