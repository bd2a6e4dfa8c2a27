"""The attention kernel for CPUs: C source, compiled where it runs, and its KV cache."""
