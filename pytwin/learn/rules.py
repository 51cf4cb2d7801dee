"""A rule list: ordered rules of one or two conditions, the first that holds answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Rule:
    """`value` where every condition (feature, "<=" or ">", threshold) holds."""

    conditions: tuple[tuple[int, str, float], ...]
    value: float
    rows: int

    def holds(self, x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Shape (rows,)."""
        import numpy as np

        kept = np.ones(len(x), dtype=bool)
        for feature, sign, threshold in self.conditions:
            below = x[:, feature] <= threshold
            kept &= below if sign == "<=" else ~below
        return kept


class RuleList:
    """Separate and conquer: the purest leaf of a tree of depth two becomes the next rule.

    Follows scikit-learn's interface; values are means of the label, that is shares where the label
    is 0 or 1. `make_tree` gives an unfitted scikit-learn tree.
    """

    def __init__(self, make_tree: Any, *, most_rules: int = 24, least_rows: int = 40) -> None:
        self.make_tree = make_tree
        self.most_rules = most_rules
        self.least_rows = least_rows
        self.rules: list[Rule] = []
        self.default = 0.0

    def fit(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> RuleList:
        """Learn from features (rows, features) and labels (rows,)."""
        import numpy as np

        self.rules = []
        left = np.arange(len(y))
        while len(self.rules) < self.most_rules and len(left) >= 2 * self.least_rows:
            tree = self.make_tree(max_depth=2, min_samples_leaf=self.least_rows).fit(
                x[left], y[left]
            )
            rule = _purest(tree, x[left], y[left])
            if rule is None:
                break
            self.rules.append(rule)
            left = left[~rule.holds(x[left])]
        self.default = float(y[left].mean()) if len(left) else float(y.mean())
        return self

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The value of the first rule that holds, shape (rows,)."""
        import numpy as np

        out = np.full(len(x), self.default)
        open_rows = np.ones(len(x), dtype=bool)
        for rule in self.rules:
            hit = open_rows & rule.holds(x)
            out[hit] = rule.value
            open_rows &= ~hit
        return out

    def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shares of both classes, shape (rows, 2)."""
        import numpy as np

        positive = self.predict(x)
        return np.stack([1.0 - positive, positive], axis=1)

    def text(self, names: tuple[str, ...]) -> str:
        """One line per rule."""
        lines = []
        for number, rule in enumerate(self.rules):
            word = "if" if number == 0 else "else if"
            tests = " and ".join(
                f"{names[feature]} {sign} {threshold:.6g}"
                for feature, sign, threshold in rule.conditions
            )
            lines.append(f"{word} {tests}: {rule.value:.4g}  ({rule.rows} rows)")
        return "\n".join([*lines, f"else: {self.default:.4g}"])


def _purest(tree: Any, x: NDArray[np.float64], y: NDArray[np.float64]) -> Rule | None:
    """The leaf whose rows leave the rest simplest: least variance, larger leaves before small."""
    import numpy as np

    inner = tree.tree_
    if inner.node_count < 2:
        return None
    leaf_of = tree.apply(x)
    best, best_loss = None, np.inf
    for leaf in np.unique(leaf_of):
        inside = leaf_of == leaf
        count = int(inside.sum())
        loss = float(y[inside].std()) / np.sqrt(count)
        if loss < best_loss:
            conditions = _path(inner, int(leaf))
            best, best_loss = Rule(conditions, float(y[inside].mean()), count), loss
    return best


def _path(tree: Any, leaf: int) -> tuple[tuple[int, str, float], ...]:
    """Conditions from the root to a leaf."""
    parents = {}
    for node in range(tree.node_count):
        if tree.children_left[node] != -1:
            parents[int(tree.children_left[node])] = (node, "<=")
            parents[int(tree.children_right[node])] = (node, ">")
    conditions = []
    node = leaf
    while node in parents:
        node, sign = parents[node]
        conditions.append((int(tree.feature[node]), sign, float(tree.threshold[node])))
    return tuple(reversed(conditions))
