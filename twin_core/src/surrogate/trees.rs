//! Tree models as scikit-learn and LightGBM evaluate them, from the JSON that `pytwin.learn` exports.
//!
//! scikit-learn rounds features to 32 bits and compares them with 64-bit thresholds; LightGBM compares in 64 bits. Both go left
//! where the feature is at most the threshold. Leaves are added in the order of the trees, so that the sum agrees to the bit.

use serde::Deserialize;

use crate::error::{Result, TwinError, invalid};

/// A tree as parallel arrays; node 0 is the root.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tree {
    /// Feature of each node, -1 at leaves.
    feature: Vec<i32>,
    threshold: Vec<f64>,
    left: Vec<u32>,
    right: Vec<u32>,
    value: Vec<f64>,
}

impl Tree {
    fn check(&self, num_features: usize) -> Result<()> {
        let n = self.feature.len();
        let lengths = [
            self.threshold.len(),
            self.left.len(),
            self.right.len(),
            self.value.len(),
        ];
        if n == 0 || lengths.iter().any(|&length| length != n) {
            return invalid("a tree needs arrays of one length >= 1");
        }
        for node in 0..n {
            let feature = self.feature[node];
            if feature < 0 {
                continue;
            }
            // Children come behind their parent: no walk can go in a circle.
            let children = [self.left[node] as usize, self.right[node] as usize];
            if feature as usize >= num_features || children.iter().any(|&child| child <= node || child >= n) {
                return invalid(format!("node {node} of a tree has a bad feature or child"));
            }
        }
        Ok(())
    }
}

/// A node as it is walked: 24 bytes, a tree's nodes in a row. Leaves have `feature` [`LEAF`] and their value in `threshold`.
#[derive(Clone, Copy, Debug)]
struct Node {
    threshold: f64,
    feature: u32,
    left: u32,
    right: u32,
}

const LEAF: u32 = u32::MAX;

/// Trees laid out for walking.
#[derive(Clone, Debug, Default)]
struct Forest {
    nodes: Vec<Node>,
    roots: Vec<u32>,
}

impl Forest {
    fn new(trees: &[Tree]) -> Self {
        let mut forest = Self::default();
        for tree in trees {
            let root = forest.nodes.len() as u32;
            forest.roots.push(root);
            for node in 0..tree.feature.len() {
                let leaf = tree.feature[node] < 0;
                forest.nodes.push(Node {
                    threshold: if leaf {
                        tree.value[node]
                    } else {
                        tree.threshold[node]
                    },
                    feature: if leaf { LEAF } else { tree.feature[node] as u32 },
                    left: root + tree.left[node],
                    right: root + tree.right[node],
                });
            }
        }
        forest
    }

    /// Adds each tree's leaf to the sums of the rows, tree after tree: the order in which the libraries add.
    fn add_leaves(&self, rows: &[f64], width: usize, sums: &mut [f64]) {
        for &root in &self.roots {
            for (row, sum) in rows.chunks_exact(width).zip(sums.iter_mut()) {
                let mut node = &self.nodes[root as usize];
                while node.feature != LEAF {
                    let next = if row[node.feature as usize] <= node.threshold {
                        node.left
                    } else {
                        node.right
                    };
                    node = &self.nodes[next as usize];
                }
                *sum += node.threshold;
            }
        }
    }
}

/// What the sum of the leaves goes through.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Link {
    /// Nothing.
    #[default]
    Identity,
    /// exp(x).
    Exp,
    /// 1 / (1 + exp(-x)).
    Logistic,
}

/// A monotone piecewise linear function, for calibrated probabilities.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Calibration {
    x: Vec<f64>,
    y: Vec<f64>,
}

impl Calibration {
    fn of(&self, value: f64) -> f64 {
        let (Some(&first), Some(&last)) = (self.x.first(), self.x.last()) else {
            return value;
        };
        if value <= first {
            return self.y[0];
        }
        if value >= last {
            return self.y[self.y.len() - 1];
        }
        let right = self.x.partition_point(|&x| x <= value);
        let (x0, x1, y0, y1) = (self.x[right - 1], self.x[right], self.y[right - 1], self.y[right]);
        y0 + (y1 - y0) * (value - x0) / (x1 - x0)
    }
}

/// A sum or mean of trees.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeModel {
    /// Names of the features, in the order of a row.
    pub features: Vec<String>,
    trees: Vec<Tree>,
    #[serde(skip)]
    forest: Forest,
    /// Added to the sum.
    #[serde(default)]
    base: f64,
    /// Divide by the number of trees (a forest).
    #[serde(default)]
    mean: bool,
    /// Round features to 32 bits first (scikit-learn).
    #[serde(default)]
    float32: bool,
    #[serde(default)]
    link: Link,
    #[serde(default)]
    calibration: Calibration,
}

impl TreeModel {
    /// Reads and checks a model's JSON.
    pub fn parse(json: &str) -> Result<Self> {
        let mut model: Self = serde_json::from_str(json).map_err(|cause| TwinError::Schema {
            what: "tree model".into(),
            cause: cause.to_string(),
        })?;
        if model.trees.is_empty() {
            return invalid("a tree model needs at least one tree");
        }
        model
            .trees
            .iter()
            .try_for_each(|tree| tree.check(model.features.len()))?;
        model.forest = Forest::new(&std::mem::take(&mut model.trees));
        let curve = &model.calibration;
        if curve.x.len() != curve.y.len() || !curve.x.is_sorted_by(|a, b| a < b) {
            return invalid("the calibration of a tree model needs rising x and one y for each");
        }
        Ok(model)
    }

    /// Predictions for rows of `features`, one after the other.
    pub fn predict(&self, rows: &[f64]) -> Vec<f64> {
        let width = self.features.len();
        let mut sums = vec![0.0; rows.len() / width.max(1)];
        if self.float32 {
            let rounded: Vec<f64> = rows.iter().map(|&x| f64::from(x as f32)).collect();
            self.forest.add_leaves(&rounded, width, &mut sums);
        } else {
            self.forest.add_leaves(rows, width, &mut sums);
        }
        for sum in &mut sums {
            *sum = self.finish(*sum);
        }
        sums
    }

    fn finish(&self, sum: f64) -> f64 {
        let raw = self.base
            + if self.mean {
                sum / self.forest.roots.len() as f64
            } else {
                sum
            };
        let linked = match self.link {
            Link::Identity => raw,
            Link::Exp => raw.exp(),
            Link::Logistic => 1.0 / (1.0 + (-raw).exp()),
        };
        self.calibration.of(linked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUMP: &str = r#"{"features": ["x"], "trees": [{"feature": [0, -1, -1], "threshold": [0.1, 0, 0],
        "left": [1, 0, 0], "right": [2, 0, 0], "value": [0, 1, 3]}], "float32": FLOAT32}"#;

    #[test]
    fn scikit_learn_rounds_to_32_bits_before_it_compares() {
        // 0.1 in 32 bits is above 0.1 in 64 bits.
        for (float32, expected) in [("true", 3.0), ("false", 1.0)] {
            let model = TreeModel::parse(&STUMP.replace("FLOAT32", float32)).unwrap();
            assert_eq!(model.predict(&[0.1]), [expected]);
        }
    }

    #[test]
    fn a_child_before_its_parent_is_refused() {
        let circle = STUMP.replace("FLOAT32", "true").replace("[1, 0, 0]", "[0, 0, 0]");
        assert!(TreeModel::parse(&circle).is_err());
    }

    #[test]
    fn a_calibration_is_piecewise_linear_and_flat_outside() {
        let curve = Calibration {
            x: vec![0.0, 1.0],
            y: vec![0.2, 0.8],
        };
        assert_eq!([curve.of(-1.0), curve.of(0.5), curve.of(2.0)], [0.2, 0.5, 0.8]);
    }
}
