"""`python -m nntrain`: the command line."""

from nntrain.cli import main

if __name__ == "__main__":
    main()
