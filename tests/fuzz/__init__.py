"""Fuzzing by seeded mutation: right inputs are changed a little, and outcomes are counted.

    python -m tests.fuzz --cases 10000 --seed 0       # counts, and every wrong case
    python -m tests.fuzz --only 4711 --seed 0         # one case again, with its traceback

Every case follows from its seed and number alone. A case is right if it works, or if it ends in
an error of `autogaze.errors` that names the file or the option; anything else is wrong.
"""
