"""Trees of scikit-learn and LightGBM as plain arrays, and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Tree = dict[str, list[Any]]
"""Parallel arrays feature (-1 at leaves), threshold, left, right, value; node 0 is the root."""


def from_scikit_learn(tree: Any, column: int = 0) -> Tree:
    """A fitted `sklearn` tree (`estimator.tree_`).

    `column` picks the class of a classifier: leaves hold its share of the training rows.
    """
    classes = tree.value.shape[2] > 1
    values = tree.value[:, 0, :]
    if classes:
        values = values / values.sum(axis=1, keepdims=True)
    return {
        "feature": [
            int(f) if left != -1 else -1
            for f, left in zip(tree.feature, tree.children_left, strict=True)
        ],
        "threshold": [
            float(t) if left != -1 else 0.0
            for t, left in zip(tree.threshold, tree.children_left, strict=True)
        ],
        "left": [max(int(child), 0) for child in tree.children_left],
        "right": [max(int(child), 0) for child in tree.children_right],
        "value": [float(value) for value in values[:, column]],
    }


def from_lightgbm(structure: dict[str, Any]) -> Tree:
    """One element of `tree_info` of `Booster.dump_model()`: its `tree_structure`."""
    tree: Tree = {"feature": [], "threshold": [], "left": [], "right": [], "value": []}

    def add(node: dict[str, Any]) -> int:
        index = len(tree["feature"])
        leaf = "split_feature" not in node
        tree["feature"].append(-1 if leaf else int(node["split_feature"]))
        tree["threshold"].append(0.0 if leaf else float(node["threshold"]))
        tree["value"].append(float(node["leaf_value"]) if leaf else 0.0)
        tree["left"].append(0)
        tree["right"].append(0)
        if not leaf:
            if node["decision_type"] != "<=":
                raise ValueError(f"decision_type ({node['decision_type']}) must be <=")
            tree["left"][index] = add(node["left_child"])
            tree["right"][index] = add(node["right_child"])
        return index

    add(structure)
    return tree


def leaves(tree: Tree) -> int:
    """How many leaves a tree has."""
    return sum(feature < 0 for feature in tree["feature"])


def as_text(tree: Tree, names: Sequence[str], unit: str = "") -> str:
    """The tree as indented rules, one line per node."""
    lines: list[str] = []

    def walk(node: int, depth: int) -> None:
        indent = "  " * depth
        feature = tree["feature"][node]
        if feature < 0:
            lines.append(f"{indent}-> {tree['value'][node]:.4g}{unit}")
            return
        lines.append(f"{indent}if {names[feature]} <= {tree['threshold'][node]:.6g}:")
        walk(tree["left"][node], depth + 1)
        lines.append(f"{indent}else:")
        walk(tree["right"][node], depth + 1)

    walk(0, 0)
    return "\n".join(lines)
