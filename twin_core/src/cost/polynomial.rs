//! Integer polynomials over features: the form of every cost.
//!
//! A profile gives terms `coefficient x factors`; when a simulation starts, configuration factors are folded in and each
//! coefficient is rounded to whole picoseconds. From then on all arithmetic is exact, so that any grouping of steps gives the
//! same times to the bit.

use serde::{Deserialize, Serialize};

use super::features::{ConfigFeatures, Feature, NUM_FEATURES, Values};
use crate::error::{Result, invalid};
use crate::time::{PS_PER_US, Picoseconds};

/// A term as a profile writes it; the coefficient is in microseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// Microseconds per unit of the product of the factors.
    pub coefficient: f64,
    /// Features multiplied; none = a constant.
    pub factors: Vec<Factor>,
    /// The physical reason.
    #[serde(default)]
    pub why: String,
}

/// A feature, or a piecewise linear function of one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Factor {
    /// The feature itself.
    Plain(String),
    /// max(0, value - above).
    Above {
        /// Feature.
        of: String,
        /// Where it begins.
        above: u32,
    },
    /// min(value, at_most).
    AtMost {
        /// Feature.
        of: String,
        /// Where it ends.
        at_most: u32,
    },
    /// 1 where the feature is at least that, else 0.
    AtLeast {
        /// Feature.
        of: String,
        /// The threshold.
        at_least: u32,
    },
    /// 1 where the feature is positive, else 0.
    Positive {
        /// Feature.
        of: String,
        /// Always true.
        positive: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Linear,
    Above(i64),
    AtMost(i64),
    AtLeast(i64),
}

impl Shape {
    fn of_int(self, value: i64) -> i64 {
        match self {
            Self::Linear => value,
            Self::Above(start) => (value - start).max(0),
            Self::AtMost(end) => value.min(end),
            Self::AtLeast(start) => i64::from(value >= start),
        }
    }

    fn of_float(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Above(start) => (value - start as f64).max(0.0),
            Self::AtMost(end) => value.min(end as f64),
            Self::AtLeast(start) => f64::from(u8::from(value >= start as f64)),
        }
    }
}

impl Shape {
    /// By how much the factor changes from step to step while the feature grows from `value` by `growth` > 0 in each, and for
    /// how many steps that holds.
    fn slope(self, value: i64, growth: i64) -> (i64, u64) {
        let until = |end: i64| ((end - value) / growth + 1) as u64;
        match self {
            Self::Above(start) if value < start => (0, until(start)),
            Self::AtMost(end) if value < end => (growth, until(end)),
            Self::AtLeast(start) if value < start => (0, until(start - 1)),
            Self::Linear | Self::Above(_) => (growth, u64::MAX),
            Self::AtMost(_) | Self::AtLeast(_) => (0, u64::MAX),
        }
    }
}

impl Factor {
    fn parts(&self) -> (&str, Shape) {
        match self {
            Self::Plain(of) => (of, Shape::Linear),
            Self::Above { of, above } => (of, Shape::Above(i64::from(*above))),
            Self::AtMost { of, at_most } => (of, Shape::AtMost(i64::from(*at_most))),
            Self::AtLeast { of, at_least } => (of, Shape::AtLeast(i64::from(*at_least))),
            // Features are whole numbers.
            Self::Positive { of, .. } => (of, Shape::AtLeast(1)),
        }
    }
}

/// Checks names and counts of a profile's terms; `which` names them in the error.
pub fn check_terms(which: &str, terms: &[Term]) -> Result<()> {
    for term in terms {
        if !term.coefficient.is_finite() {
            return invalid(format!(
                "{which}: coefficient ({}) must be finite",
                term.coefficient
            ));
        }
        let mut step_factors = 0;
        for factor in &term.factors {
            let (name, _) = factor.parts();
            if !ConfigFeatures::is_known(name) {
                if Feature::parse(name).is_none() {
                    return invalid(format!(
                        "{which}: unknown feature {name:?}; known are {}",
                        Feature::known()
                    ));
                }
                step_factors += 1;
            }
        }
        if step_factors > 2 {
            return invalid(format!(
                "{which}: a term has {step_factors} step features; at most 2 are allowed"
            ));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Monomial {
    coefficient: i64,
    first: (Feature, Shape),
    second: Option<(Feature, Shape)>,
}

impl Monomial {
    /// Whether it changes with the context, which alone changes from step to step of plain decodes.
    fn has_context(&self) -> bool {
        let second = self.second.map(|(feature, _)| feature);
        self.first.0 == Feature::ContextTokens || second == Some(Feature::ContextTokens)
    }
}

/// A cost in picoseconds as a function of step features.
#[derive(Clone, Debug, Default)]
pub struct Polynomial {
    constant: i128,
    /// Those without the context first.
    monomials: Vec<Monomial>,
    /// How many they are.
    without_context: usize,
    /// The monomials that are a coefficient times a feature, most of them; apart, so that [`Self::eval`] takes no decision.
    linear: Vec<(Feature, i64)>,
    /// All others.
    curved: Vec<Monomial>,
}

impl Polynomial {
    /// Folds the configuration into the terms and rounds to picoseconds. Terms must have passed [`check_terms`].
    pub fn compile(terms: &[Term], config: &ConfigFeatures) -> Self {
        let mut polynomial = Self::default();
        for term in terms {
            let mut coefficient = term.coefficient * PS_PER_US as f64;
            let mut step = Vec::with_capacity(2);
            for factor in &term.factors {
                let (name, shape) = factor.parts();
                if let Some(value) = config.get(name) {
                    coefficient *= shape.of_float(value);
                } else if let Some(feature) = Feature::parse(name) {
                    step.push((feature, shape));
                }
            }
            // Without LoRA no step has an adapter.
            let never = |&(feature, shape): &(Feature, Shape)| {
                !config.lora_enabled() && feature.is_of_lora() && shape.of_int(0) == 0
            };
            if step.iter().any(never) {
                continue;
            }
            let coefficient = coefficient.round() as i64;
            match step[..] {
                [] => polynomial.constant += i128::from(coefficient),
                _ if coefficient == 0 => {}
                [first, ref rest @ ..] => polynomial.monomials.push(Monomial {
                    coefficient,
                    first,
                    second: rest.first().copied(),
                }),
            }
        }
        polynomial.monomials.sort_by_key(Monomial::has_context);
        polynomial.without_context = polynomial
            .monomials
            .partition_point(|monomial| !monomial.has_context());
        for &monomial in &polynomial.monomials {
            match (monomial.first, monomial.second) {
                ((feature, Shape::Linear), None) => polynomial.linear.push((feature, monomial.coefficient)),
                _ => polynomial.curved.push(monomial),
            }
        }
        polynomial
    }

    /// The cost, never below zero.
    pub fn eval(&self, values: &Values) -> Picoseconds {
        let mut sum = self.constant;
        for &(feature, coefficient) in &self.linear {
            sum += i128::from(coefficient) * i128::from(values[feature as usize]);
        }
        for monomial in &self.curved {
            let (feature, shape) = monomial.first;
            let mut product = shape.of_int(values[feature as usize]);
            if let Some((feature, shape)) = monomial.second {
                product *= shape.of_int(values[feature as usize]);
            }
            sum += i128::from(monomial.coefficient) * i128::from(product);
        }
        sum.clamp(0, i128::from(u64::MAX / 4)) as Picoseconds
    }

    /// By how much the sum of the terms changes from step to step while the context grows by `growth` > 0 tokens in each and
    /// nothing else changes, and for how many steps that holds; `None` where it is not the same in each.
    pub fn slope(&self, values: &Values, growth: i64) -> Option<(i128, u64)> {
        let (mut slope, mut steps) = (0, u64::MAX);
        for monomial in &self.monomials[self.without_context..] {
            let context = Feature::ContextTokens;
            let (shape, other) = match (monomial.first, monomial.second) {
                (first, Some(second)) if first.0 == second.0 => return None,
                (first, other) if first.0 == context => (first.1, other),
                (first, Some(second)) => (second.1, Some(first)),
                (_, None) => continue,
            };
            let (change, holds) = shape.slope(values[context as usize], growth);
            let other = other.map_or(1, |(feature, shape)| shape.of_int(values[feature as usize]));
            slope += i128::from(monomial.coefficient) * i128::from(change) * i128::from(other);
            steps = steps.min(holds);
        }
        Some((slope, steps))
    }

    /// The cost in picoseconds where features are means, not counts: for estimates without a simulation.
    pub fn eval_mean(&self, values: &[f64; NUM_FEATURES]) -> f64 {
        let mut sum = self.constant as f64;
        for monomial in &self.monomials {
            let (feature, shape) = monomial.first;
            let mut product = shape.of_float(values[feature as usize]);
            if let Some((feature, shape)) = monomial.second {
                product *= shape.of_float(values[feature as usize]);
            }
            sum += monomial.coefficient as f64 * product;
        }
        sum.max(0.0)
    }
}
