"""Stage 1: write a corpus of small exercises as gzipped text, the same on every machine."""

from __future__ import annotations

import argparse
import gzip
import random
from collections.abc import Callable
from pathlib import Path

from events import emit

NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn", "gwen", "hugo", "iris", "jon", "kira", "leo")
THINGS = ("apples", "bolts", "cards", "drums", "eggs", "forks", "gears", "hats", "inks", "jars")
ANIMALS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kudu", "lynx")


def below(rng: random.Random, stop: int) -> int:
    """A whole number in [0, stop), from `random()` alone: its values never change between Python versions."""
    return int(rng.random() * stop)


def addition(rng: random.Random) -> str:
    """`ada has 3 eggs and buys 5 eggs , so ada has 8 eggs .`"""
    name, thing = NAMES[below(rng, 12)], THINGS[below(rng, 10)]
    have, more = 1 + below(rng, 100), 1 + below(rng, 100)
    return f"{name} has {have} {thing} and buys {more} {thing} , so {name} has {have + more} {thing} ."


def comparison(rng: random.Random) -> str:
    """`of 17 and 4 eggs ben takes 17 and leaves 4 .`"""
    name, thing = NAMES[below(rng, 12)], THINGS[below(rng, 10)]
    one, two = below(rng, 200), below(rng, 200)
    return f"of {one} and {two} {thing} {name} takes {max(one, two)} and leaves {min(one, two)} ."


def sequence(rng: random.Random) -> str:
    """`eve counts eggs by 3 : 7 10 13 16 19 .`"""
    name, thing = NAMES[below(rng, 12)], THINGS[below(rng, 10)]
    start, step = below(rng, 150), 1 + below(rng, 12)
    return f"{name} counts {thing} by {step} : {' '.join(str(start + step * k) for k in range(5))} ."


def copying(rng: random.Random) -> str:
    """`say fox hen elk bee jay backwards : jay bee elk hen fox .`"""
    words = [ANIMALS[below(rng, 12)] for _ in range(5)]
    return f"say {' '.join(words)} backwards : {' '.join(reversed(words))} ."


EXERCISES: list[Callable[[random.Random], str]] = [addition, comparison, sequence, copying]


def main() -> None:
    """Write the corpus and report how many lines it has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=600_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    rng = random.Random(options.seed)
    text = "\n".join(EXERCISES[below(rng, len(EXERCISES))](rng) for _ in range(options.lines)) + "\n"
    # mtime=0 keeps the file's digest, and with it the artifact's name, the same from run to run.
    options.out.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))
    emit(event="corpus_written", lines=options.lines, characters=len(text))
    packed = options.out.stat().st_size
    print(f"{options.lines} lines, {len(text) / 1e6:.1f} MB of text, {packed / 1e6:.1f} MB packed")


if __name__ == "__main__":
    main()
