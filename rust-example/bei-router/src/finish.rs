//! What raw numbers of the model go through on their way to a reply: cutting, normalising, probabilities. Never to NaN.

use crate::failure::Failure;

/// What a vector goes through after the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish {
    /// Keep the first numbers only.
    pub dimensions: Option<usize>,
    /// Bring it to length 1.
    pub normalize: bool,
}

impl Finish {
    /// Cuts a vector to its first `dimensions` numbers and brings it to length 1, as the family's router does: in f64.
    pub fn vector(self, mut vector: Vec<f32>) -> Result<Vec<f32>, Failure> {
        if let Some(dimensions) = self.dimensions {
            vector.truncate(dimensions);
        }
        let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        if !square.is_finite() {
            return Err(Failure::backend("the vector holds NaN or infinity"));
        }
        if self.normalize {
            if square == 0.0 {
                return Err(Failure::backend("a vector of zeros cannot be normalised"));
            }
            let scale = 1.0 / square.sqrt();
            for x in &mut vector {
                *x = (f64::from(*x) * scale) as f32;
            }
        }
        Ok(vector)
    }
}

/// The numbers, unless one is NaN or infinite.
pub fn finite(numbers: &[f32], what: &str) -> Result<(), Failure> {
    match numbers.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(Failure::backend(format!("{what} hold NaN or infinity"))),
    }
}

/// Probabilities of a classifier's labels, as the family computes them: the sigmoid of one label, the softmax of more.
pub fn probabilities(logits: &mut [f32]) {
    if let [logit] = logits {
        *logit = sigmoid(*logit);
        return;
    }
    softmax(logits);
}

/// A probability by itself.
pub fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// Probabilities that sum to one.
pub fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in logits.iter_mut() {
        *x = (*x - largest).exp();
        sum += *x;
    }
    for x in logits {
        *x /= sum;
    }
}

/// The cosine of two vectors. `None` where one of them has no direction.
pub fn cosine(a: &[f32], b: &[f32]) -> Option<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt());
    cosine.is_finite().then_some(cosine as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(vector: Vec<f32>, dimensions: Option<usize>, normalize: bool) -> Result<Vec<f32>, Failure> {
        Finish { dimensions, normalize }.vector(vector)
    }

    #[test]
    fn vectors_are_cut_before_they_are_normalised() {
        assert_eq!(finish(vec![3.0, 4.0, 12.0], Some(2), true).unwrap(), [0.6, 0.8]);
        assert_eq!(finish(vec![3.0, 4.0], None, false).unwrap(), [3.0, 4.0]);
        let tiny = finish(vec![1e-40, 0.0], None, true).unwrap();
        assert_eq!(tiny, [1.0, 0.0]);
        let huge = finish(vec![3e38, 3e38], None, true).unwrap();
        assert!((huge[0] - 0.5f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn what_cannot_be_normalised_is_an_error() {
        for vector in [vec![0.0, 0.0], vec![f32::NAN, 1.0], vec![f32::INFINITY, 1.0], vec![]] {
            assert_eq!(finish(vector, None, true).unwrap_err().status, 424);
        }
        assert_eq!(finish(vec![f32::NAN], None, false).unwrap_err().status, 424);
        assert_eq!(finish(vec![0.0, 1.0], Some(1), true).unwrap_err().status, 424);
        assert_eq!(finite(&[1.0, f32::NEG_INFINITY], "logits").unwrap_err().status, 424);
    }

    #[test]
    fn probabilities_stay_finite_and_sum_to_one() {
        for logits in [vec![0.0, 0.0], vec![1000.0, -1000.0, 3.0], vec![-3e38, 3e38], vec![5.0]] {
            let mut scores = logits.clone();
            probabilities(&mut scores);
            let sum: f32 = if scores.len() == 1 { 1.0 } else { scores.iter().sum() };
            assert!(scores.iter().all(|x| (0.0..=1.0).contains(x)) && (sum - 1.0).abs() < 1e-6, "{scores:?}");
        }
        let mut two = [f32::ln(1.0), f32::ln(3.0)];
        probabilities(&mut two);
        assert!((two[1] - 0.75).abs() < 1e-6);
        for (logit, score) in [(0.0, 0.5), (200.0, 1.0), (-200.0, 0.0)] {
            let mut one = [logit];
            probabilities(&mut one);
            assert!((one[0] - score).abs() < 1e-6);
        }
    }

    #[test]
    fn the_cosine_needs_directions() {
        assert_eq!(cosine(&[1.0, 0.0], &[2.0, 0.0]), Some(1.0));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 1.0]), Some(0.0));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 0.0]), None);
    }
}
