"""Scripts that measure the project's figures: `python -m benchmarks` lists them."""
