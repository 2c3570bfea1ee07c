"""`python -m pipeline` and `accelerate launch -m pipeline`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
