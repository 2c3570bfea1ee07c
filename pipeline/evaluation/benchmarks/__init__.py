"""Public benchmarks, asked by lm-evaluation-harness (Gao et al. 2021): suites as data, its model on ours, its answers read."""
