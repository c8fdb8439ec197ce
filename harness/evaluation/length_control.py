"""AlpacaEval's win rate with the effect of answers' lengths taken out.

A logistic model explains each preference by the difference of lengths, by how hard the instruction is
(fixed, from published annotations) and by the model; the length-controlled win rate is its prediction at
equal lengths (Dubois et al. 2024). The published figure also regularises with the annotations of two more
models; without these it is another figure, `length_controlled_noreg`, and never called the
length-controlled win rate.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import KitError

METRIC = "length_controlled_noreg"
DIFFICULTIES = "alpaca_eval/instruction_difficulty.csv"
"""Below the folder of benchmarks: columns index, instruction_difficulty, an item of the 805 a row."""
FOLDS = 5
SEED = 123

Numbers = npt.NDArray[np.float64]


def read_difficulties(path: Path) -> Numbers:
    """Difficulty of each instruction, in the benchmark's order.

    Raises:
        KitError: The file holds something else.
    """
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float64, ndmin=2)
        if not np.array_equal(rows[:, 0], np.arange(len(rows))):
            raise ValueError("the first column does not count from 0")
        return rows[:, 1]
    except (OSError, ValueError, IndexError) as error:
        raise KitError(
            f"holds no difficulties ({error})", where=str(path), expected="index,instruction_difficulty"
        ) from None


def predict(difficulties: Numbers, weight: float, bias: float) -> float:
    """Win rate in percent at equal lengths, from the weights of a fitted model.

    Args:
        difficulties: [n].
        weight: Of the difficulty.
        bias: Of the model.
    """
    return float(100.0 * np.mean(1.0 / (1.0 + np.exp(-(weight * difficulties + bias)))))


def fit(
    preferences: Sequence[float], gaps: Sequence[int], difficulties: Numbers
) -> tuple[float, float, float]:
    """Weights of (length, difficulty, model).

    Args:
        preferences: Probability that the model's answer is preferred, of each item.
        gaps: Length of the baseline's answer less the model's, characters.
        difficulties: Of each item.

    Raises:
        KitError: Fewer items than folds, or all lengths differ by the same.
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    share = np.asarray(preferences, dtype=np.float64)
    gap = np.asarray(gaps, dtype=np.float64)
    spread = float(np.std(gap, ddof=1)) if len(gap) > 1 else 0.0
    if len(share) < FOLDS or not spread:
        raise KitError(f"{len(share)} items do not fit a length control", expected=f"{FOLDS} or more")
    features = np.column_stack([np.tanh(gap / spread), difficulties, np.ones(len(share))])
    # An item is won with weight p and lost with weight 1 - p.
    rows = np.vstack([features, features])
    won = np.concatenate([np.ones(len(share)), np.zeros(len(share))])
    weights = np.concatenate([share, 1.0 - share])
    items = np.tile(np.arange(len(share)), 2)
    folds = list(GroupKFold(FOLDS).split(rows, won, items))

    def continuous_log_loss(truth: Numbers, predicted: Numbers, sample_weight: Numbers) -> float:
        chance = np.clip(predicted, 1e-15, 1 - 1e-15)
        losses = -(truth * np.log(chance) + (1 - truth) * np.log(1 - chance))
        return float(np.average(losses, weights=sample_weight))

    import sklearn

    scorer = make_scorer(continuous_log_loss, greater_is_better=False, response_method="predict_proba")
    with warnings.catch_warnings(), sklearn.config_context(enable_metadata_routing=True):
        warnings.simplefilter("ignore")
        model = LogisticRegressionCV(
            Cs=10,
            cv=folds,
            penalty="l1",
            solver="liblinear",
            fit_intercept=False,
            random_state=SEED,
            scoring=scorer.set_score_request(sample_weight=True),
        )
        model.set_fit_request(sample_weight=True)
        model.fit(rows, won, sample_weight=weights)
    length, difficulty, bias = (float(weight) for weight in model.coef_[0])
    return length, difficulty, bias
