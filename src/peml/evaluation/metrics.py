"""The metrics of the tasks, under the names that task files use."""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from peml.errors import DataError
from peml.evaluation.texts import composed, number_hit, option_hit, rouge, span_em, span_f1
from peml.records.run import Classes
from peml.tasks import OF_SCORES, Task
from peml.tasks.classes import ends_negative
from peml.tasks.kinds import BINARY, LOWER_IS_BETTER

Values = Sequence[Any]
RowScores = Callable[[Values, Values], list[float]]

_ALL_RIGHT = 1 - 1e-6  # of a score, up to rounding
_NEAR = 1e-9  # relative, of scores that are as good as right


def _sk(name: str, *answers: Values, **options: Any) -> Any:
    """A function of scikit-learn, imported when a score is computed: a prediction needs none."""
    from sklearn import metrics

    return getattr(metrics, name)(*answers, **options)


def _metric(
    name: str,
    *,
    defined: Callable[[Values, Values], bool] = lambda gold, predicted: True,
    otherwise: float = 0.0,
    **options: Any,
) -> Callable[[Values, Values], float]:
    """A metric of scikit-learn; where it isn't `defined`, `otherwise` without a warning."""

    def compute(gold: Values, predicted: Values) -> float:
        if not defined(gold, predicted):
            return otherwise
        return float(_sk(name, gold, predicted, **options))

    return compute


def _correlation(name: str) -> Callable[[Values, Values], float]:
    def correlate(gold: Values, predicted: Values) -> float:
        # The correlation with a constant is undefined; by convention it counts as 0.
        if np.ptp(np.asarray(predicted, float)) == 0 or np.ptp(np.asarray(gold, float)) == 0:
            return 0.0
        from scipy import stats

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            return float(getattr(stats, name)(gold, predicted).statistic)

    return correlate


def margins(scores: Sequence[Sequence[float]]) -> list[float]:
    """Score of label 1 minus score of label 0, per row, rounded as in a predictions file."""
    pairs = np.asarray(scores, np.float32).reshape(len(scores), 2).astype(np.float64)
    differences: list[float] = (pairs[:, 1] - pairs[:, 0]).tolist()
    return differences


def _corpus(name: str) -> Callable[[Values, Values], float]:
    def score(gold: Values, predicted: Values) -> float:
        result = corpus_metric(name).corpus_score(list(predicted), [list(gold)])
        return float(result.score) / 100

    return score


def _plain(text: str) -> str:
    return " ".join(composed(str(text)).lower().split())


def _each(score: Callable[[Any, Any], float]) -> RowScores:
    return lambda gold, predicted: [score(g, p) for g, p in zip(gold, predicted, strict=True)]


def _all_right(gold: Values, predicted: Values, groups: Sequence[Hashable]) -> list[float]:
    right: dict[Hashable, float] = {}
    for g, p, group in zip(gold, predicted, groups, strict=True):
        right[group] = right.get(group, 1.0) * (g == p)
    return list(right.values())


def _mean_of(rows: RowScores) -> Callable[[Values, Values], float]:
    return lambda gold, predicted: float(np.mean(rows(gold, predicted)))


ROW_SCORES: dict[str, RowScores] = {
    "accuracy": _each(lambda g, p: float(g == p)),
    "exact_match": _each(lambda g, p: float(_plain(g) == _plain(p))),
    "mae": _each(lambda g, p: abs(float(g) - float(p))),
    "number_match": _each(number_hit),
    "option_match": _each(option_hit),
    "rouge_1": rouge("rouge1"),
    "rouge_2": rouge("rouge2"),
    "rouge_l": rouge("rougeL"),
    "span_em": _each(span_em),
    "span_f1": _each(span_f1),
}
"""The metrics that are a mean over rows: each function gives the score of every row."""

PROPORTIONS = frozenset(
    {"accuracy", "em", "exact_match", "number_match", "option_match", "span_em"}
)
"""The metrics that are a share of right rows, or of right groups of rows."""


CORPUS_METRICS = ("bleu", "chrf")
"""The metrics that sacrebleu computes over all texts together."""


def corpus_metric(name: str) -> Any:
    """The metric of sacrebleu, which is imported here."""
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(force=True) if name == "bleu" else CHRF()


METRICS: dict[str, Callable[[Values, Values], float]] = {
    **{name: _mean_of(rows) for name, rows in ROW_SCORES.items()},
    **{name: _corpus(name) for name in CORPUS_METRICS},
    "auroc": _metric("roc_auc_score", defined=lambda gold, _: len(set(gold)) > 1, otherwise=0.5),
    "average_precision": _metric("average_precision_score", defined=lambda gold, _: 1 in gold),
    **dict.fromkeys(("f1", "f1a"), _metric("f1_score", pos_label=1, zero_division=0.0)),
    "macro_f1": _metric("f1_score", average="macro", zero_division=0.0),
    "matthews": _metric(
        "matthews_corrcoef", defined=lambda *answers: all(len(set(each)) > 1 for each in answers)
    ),
    "pearson": _correlation("pearsonr"),
    "r2": _metric("r2_score", defined=lambda gold, _: len(gold) > 1),
    "rmse": _metric("root_mean_squared_error"),
    "spearman": _correlation("spearmanr"),
}
"""The function of each metric: (right answers, predictions) -> value. Metrics that rank rows take
`margins` in place of predictions."""


GROUP_SCORES: dict[str, Callable[[Values, Values, Sequence[Hashable]], list[float]]] = {
    "em": _all_right
}
"""The metrics that are a mean over groups of rows: each function gives every group's score."""


def compute_metrics(
    names: Sequence[str],
    gold: Values,
    predicted: Values,
    groups: Sequence[Hashable] | None = None,
    scores: Sequence[Sequence[float]] | None = None,
) -> dict[str, float]:
    """The values of metrics, in their order.

    Right and predicted are option indices, scores or texts. Metrics over groups need the group of
    each row, metrics that rank rows need the scores of each row's options.
    """
    ranking = {name: margins(scores or ()) for name in names if name in OF_SCORES}
    return {name: _score(name, gold, ranking.get(name, predicted), groups) for name in names}


def score_constant(
    names: Sequence[str], gold: Values, majority: Any, groups: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """Scores of a baseline that gives every row the same answer, by metric.

    The answer is `majority_prediction`. For the F1 of label 1 it is label 1, and for metrics that
    rank rows every row gets the same score.
    """
    best = dict.fromkeys(names, majority) | dict.fromkeys(OF_SCORES, 0.0)
    best |= dict.fromkeys(("f1", "f1a"), 1)
    return {n: _score(n, gold, [best[n]] * len(gold), groups) for n in names}


def _score(name: str, gold: Values, predicted: Values, groups: Sequence[Hashable] | None) -> float:
    if name in GROUP_SCORES:
        return float(np.mean(GROUP_SCORES[name](gold, predicted, groups or ())))
    return METRICS[name](gold, predicted)


def refuse_unscorable(task: Task, gold: Sequence[Any], numbers: Sequence[int], where: str) -> None:
    """Warns about rows that a metric can't score; refuses a headline that can score none.

    A metric of the second label (F1) is warned about if the first seems to be the positive one.
    The right answer has to be right, and no answer wrong. ROUGE, for example, only reads letters
    from a to z and digits, and to SQuAD's metrics the answer ``A`` is an article. Where all right
    answers are one, correlations, R² and the like are the same for every model. `numbers` are those
    of the rows in the file or split, `where`.

    Raises:
        DataError: The headline can score no row.
    """
    for name in task.metrics:
        if name in BINARY and ends_negative(task.labels):
            warnings.warn(
                f"Task {task.name!r}: {name} takes {task.labels[1]!r}, the second label, as the "
                f"positive one; list the labels the other way round if {task.labels[0]!r} is",
                stacklevel=2,
            )
        lost = _unscorable(name, gold)
        if len(lost) < len(gold):  # an empty answer among others may be meant
            lost = [row for row in lost if str(gold[row]).strip()]
        if not lost:
            continue
        only = task.labels[gold[0]] if task.labels else gold[0]
        problem, action = (
            f"Task {task.name!r}: {name} is undefined: the right answer of all {len(gold):,} rows "
            f"of {where} is {only!r}",
            "give rows with other answers too (tasks.evaluation_rows), or choose other metrics",
        )
        if task.type.generates or name in ROW_SCORES:
            problem, action = (
                f"Task {task.name!r}: {name} can't score {len(lost):,} of {len(gold):,} rows of "
                f"{where}: it reads no answer in {gold[lost[0]]!r}, the right one of row "
                f"{numbers[lost[0]]} (from 0)",
                "choose other metrics (exact_match and chrf read any text), or correct the rows"
                if str(gold[lost[0]]).strip()
                else "give the rows their answers, or report another split (splits.reported)",
            )
        if len(lost) == len(gold) and name == task.metrics[0]:
            raise DataError(
                problem, allowed="right answers that the metric can read", action=action
            )
        warnings.warn(f"{problem}; {action}", stacklevel=2)


@lru_cache(64)
def _tells_classes(name: str, classes: tuple[int, ...]) -> bool:
    """Whether a metric is 1 for right answers only; it matters which classes there are alone."""
    gold = 2 * classes  # a single row has no MCC
    wrong = [max(1, *classes) - each for each in gold]
    score = METRICS[name]
    return score(gold, gold) >= _ALL_RIGHT > score(gold, wrong)


def _tells_scores(name: str, gold: Sequence[float]) -> bool:
    """Whether a metric is 1 for nearly right scores; R² is 0 if the right ones are all equal."""
    near = _NEAR * (1 + max(map(abs, gold)))
    return METRICS[name](gold, [each + near for each in gold]) >= _ALL_RIGHT


def _unscorable(name: str, gold: Sequence[Any]) -> Sequence[int]:
    if name in GROUP_SCORES or name in LOWER_IS_BETTER:
        return ()
    if name not in ROW_SCORES:  # BLEU, for example, needs four words in a row
        if all(isinstance(each, int) for each in gold):
            tells = _tells_classes(name, tuple(sorted({*gold})))
        elif all(isinstance(each, float) for each in gold):
            tells = _tells_scores(name, gold)
        else:
            tells = METRICS[name](gold, gold) >= _ALL_RIGHT
        return () if tells else range(len(gold))
    said = [answers[0] if isinstance(answers, tuple) else answers for answers in gold]
    right, wrong = ROW_SCORES[name](gold, said), ROW_SCORES[name](gold, [""] * len(gold))
    rows = enumerate(zip(right, wrong, strict=True))
    return [row for row, (own, none) in rows if own < _ALL_RIGHT or none > 0]


def describe_classes(labels: Sequence[str], gold: Values, predicted: Values) -> Classes:
    """F1 of each label and the confusion matrix of a classification, from indices of labels."""
    numbers = range(len(labels))
    f1 = _sk("f1_score", gold, predicted, labels=numbers, average=None, zero_division=0.0)
    confusion = _sk("confusion_matrix", gold, predicted, labels=numbers)
    return Classes(labels=list(labels), f1=f1.tolist(), confusion=confusion.tolist())


def majority_prediction(task: Task, gold: Iterable[Any]) -> Any:
    """The constant baseline's answer: the most frequent answer, or the mean score.

    The answers are those of the train rows, or of the reported rows if the task has no others.
    """
    if task.type.has_scale:
        return float(np.fromiter(gold, dtype=np.float64).mean())
    # If several texts are right, count the one used for training; on a tie, take the lowest answer.
    counts = Counter(answer[0] if isinstance(answer, tuple) else answer for answer in gold)
    return min(counts, key=lambda answer: (-counts[answer], answer))
