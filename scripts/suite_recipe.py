"""All constants of a suite that scripts/train_suite.py trains: its text, its models, its training."""

from __future__ import annotations

from dataclasses import dataclass

# ----------------------------------------------------------------------------------------- the text

VOCABULARY = 512
END_OF_TEXT = "<|endoftext|>"
TOKENS = 81  # of a sequence: 80 inputs and the last target
WINDOW = 64
CONTEXT = 32
CONTROL = 500
CONTROL_RUN = 32

# Passages copied inside documents: rank r occurs MOST_COPIES / r ** COPIES_EXPONENT times, at least twice.
PASSAGES = 800
MOST_COPIES = 700
COPIES_EXPONENT = 0.85
# Kinds by rank, over and over, so that each kind has passages of few and of many copies.
PASSAGE_KINDS = (
    "exact",
    "edited",
    "exact",
    "template",
    "exact",
    "edited",
    "exact",
    "edited",
    "exact",
    "exact",
)
PASSAGE_TOKENS = (72, 200)  # shortest and longest; the logarithm of the length is uniform
EDITS = (1, 3)  # tokens changed in an edited copy
SLOTS = 4  # tokens of a template that every copy fills anew
# Text that continues by a rule, no two alike: a phrase said over and over, and numbered lines.
REPEATING = 300
PHRASE_TOKENS = (3, 10)
COUNTING = 200
# Whole sequences trained on more than once, as when part of a corpus is read again.
SEQUENCES = 40
MOST_SEQUENCE_COPIES = 120

KINDS = ("exact", "edited", "template", "repeating", "counting", "sequence")

# --------------------------------------------------------------------------------------- the models

SEED = 20231223
BATCH = 32
# The paper's seven checkpoints (23k, 43k ... 143k of 143k steps), at 7/1000 of Pythia's length.
CHECKPOINTS = (161, 301, 441, 581, 721, 861, 1001)
STEPS = CHECKPOINTS[-1]
WARMUP_STEPS = 20


@dataclass(frozen=True)
class Size:
    """One architecture of the suite; head size is 32, which every attention kernel has."""

    name: str
    hidden: int
    layers: int
    peak_learning_rate: float  # falls with size, as Pythia's does

    @property
    def heads(self) -> int:
        return self.hidden // 32


SIZES = (
    Size("46k", 32, 1, 1e-2),
    Size("84k", 32, 4, 1e-2),
    Size("215k", 64, 3, 1e-2),
    Size("1.4m", 160, 4, 5e-3),
)
REPLICATES = 2


@dataclass(frozen=True)
class Training:
    """One model to train: replicate 0 is in the suite, the others differ from it in their initial weights."""

    size: Size
    replicate: int

    @property
    def name(self) -> str:
        return self.size.name if self.replicate == 0 else f"{self.size.name}-seed{self.replicate}"

    @property
    def folder(self) -> str:
        return f"{'weights' if self.replicate == 0 else 'replicates'}/{self.name}"

    @property
    def kept(self) -> tuple[int, ...]:
        return CHECKPOINTS if self.replicate == 0 else CHECKPOINTS[-1:]


TRAININGS = tuple(Training(size, 0) for size in SIZES) + tuple(
    Training(SIZES[-1], i) for i in range(1, REPLICATES + 1)
)
