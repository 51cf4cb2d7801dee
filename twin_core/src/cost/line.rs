//! Durations that grow by the same amount from step to step, summed in closed form.

use crate::time::Picoseconds;

/// Durations `first + k * slope` of steps `k = 0, 1, ...`, good for `steps` of them, each at least a microsecond.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Duration of the first step.
    pub first: Picoseconds,
    /// Its change from step to step.
    pub slope: i64,
    /// So many steps follow the line.
    pub steps: u64,
}

impl Line {
    /// Duration of step `k`.
    pub fn at(&self, k: u64) -> Picoseconds {
        (i128::from(self.first) + i128::from(self.slope) * i128::from(k)) as Picoseconds
    }

    /// Duration of the first `n` steps together.
    pub fn total(&self, n: u64) -> i128 {
        let n = i128::from(n);
        i128::from(self.first) * n + i128::from(self.slope) * (n * (n - 1) / 2)
    }

    /// How many steps, at most `most`, end within `span`: the root of [`Self::total`], found in floating point and put right in
    /// integers.
    pub fn within(&self, span: Picoseconds, most: u64) -> u64 {
        let most = most.min(self.steps);
        if most == 0 || self.first > span {
            return 0;
        }
        if self.total(most) <= i128::from(span) {
            return most;
        }
        // slope/2 n^2 + (first - slope/2) n = span, in the form that does not cancel.
        let half = self.slope as f64 / 2.0;
        let linear = self.first as f64 - half;
        let root = (linear * linear + 4.0 * half * span as f64).max(0.0).sqrt();
        let mut n = ((2.0 * span as f64 / (linear + root)) as u64).clamp(1, most - 1);
        while self.total(n) > i128::from(span) {
            n -= 1;
        }
        while self.total(n + 1) <= i128::from(span) {
            n += 1;
        }
        n
    }

    /// Sum of [`Self::total`] over `count` numbers of steps: `start`, `start + stride`, ...
    pub fn sum_of_totals(&self, start: u64, stride: u64, count: u64) -> i128 {
        let [start, stride, count] = [start, stride, count].map(i128::from);
        let pairs = count * (count - 1) / 2;
        let numbers = start * count + stride * pairs;
        let squares = start * start * count
            + 2 * start * stride * pairs
            + stride * stride * (pairs * (2 * count - 1) / 3);
        i128::from(self.first) * numbers + i128::from(self.slope) * ((squares - numbers) / 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn closed_forms_are_the_sums(
            last in 1_000_000u64..1 << 40,
            slope in -(1i64 << 30)..1 << 30,
            steps in 1u64..200,
            span in 0u64..1 << 46,
            (start, stride, count) in (0u64..20, 1u64..20, 1u64..9),
        ) {
            // A falling line is given by its lowest end.
            let first = if slope < 0 { last + steps * slope.unsigned_abs() } else { last };
            let line = Line { first, slope, steps };
            let ends: Vec<i128> = (0..steps)
                .scan(0, |end, k| {
                    *end += i128::from(line.at(k));
                    Some(*end)
                })
                .collect();
            for (end, n) in ends.iter().zip(1..) {
                prop_assert_eq!(*end, line.total(n));
            }
            let within = ends.iter().take_while(|&&end| end <= i128::from(span)).count() as u64;
            prop_assert_eq!(line.within(span, u64::MAX), within);
            prop_assert_eq!(line.within(span, 3), within.min(3));
            let sum: i128 = (0..count).map(|q| line.total(start + q * stride)).sum();
            prop_assert_eq!(line.sum_of_totals(start, stride, count), sum);
        }
    }
}
