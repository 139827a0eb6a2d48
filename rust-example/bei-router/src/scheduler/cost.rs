use std::time::Duration;

/// What an earlier batch weighs when another one has finished: the last 50 or so count.
const DECAY: f64 = 0.98;

/// Least relative variance of the batches' tokens at which their times tell both terms of the model apart.
const LEAST_VARIANCE: f64 = 1e-3;

/// Predicts the time of a batch: `fixed + per_token * tokens`, where a padded row's tokens count as its longest item's.
///
/// Both terms come from the finished batches by least squares, each batch weighing `DECAY` times what the next one does. With the
/// weighted sums n, x, y, xx, xy (of 1, tokens, seconds, tokens², tokens · seconds):
///
/// ```text
/// per_token = (n xy - x y) / (n xx - x²)        fixed = (y - per_token x) / n
/// ```
///
/// Neither is below 0. While all batches have about the same tokens, the sums tell only their mean: both terms are then scaled so that
/// the model meets it.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    /// Seconds of a batch without tokens.
    fixed: f64,
    /// Seconds of a token.
    per_token: f64,
}

impl Cost {
    /// Learns from a finished batch, or a part of the warm-up.
    pub fn observe(&mut self, tokens: usize, took: Duration) {
        let (x, y) = (tokens as f64, took.as_secs_f64());
        for sum in [&mut self.n, &mut self.x, &mut self.y, &mut self.xx, &mut self.xy] {
            *sum *= DECAY;
        }
        self.n += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;

        let (mean, spread) = (self.x / self.n, self.n * self.xx - self.x * self.x);
        if spread > LEAST_VARIANCE * self.x * self.x {
            self.per_token = (self.n * self.xy - self.x * self.y) / spread;
            self.fixed = (self.y - self.per_token * self.x) / self.n;
            if self.per_token < 0.0 {
                (self.fixed, self.per_token) = (self.y / self.n, 0.0);
            } else if self.fixed < 0.0 {
                (self.fixed, self.per_token) = (0.0, self.xy / self.xx);
            }
            return;
        }
        let predicted = self.fixed + self.per_token * mean;
        if predicted > 0.0 {
            let scale = self.y / self.n / predicted;
            self.fixed *= scale;
            self.per_token *= scale;
        } else if mean > 0.0 {
            self.per_token = self.y / self.x;
        }
    }

    /// Seconds of a batch of `tokens`.
    pub fn batch(&self, tokens: usize) -> f64 {
        self.fixed + self.per_token * tokens as f64
    }

    /// Seconds of a token among those of full batches of `budget` tokens.
    pub fn token(&self, budget: usize) -> f64 {
        self.batch(budget) / budget.max(1) as f64
    }

    /// The tokens that take as long as what a batch costs beside its tokens.
    pub fn fixed_tokens(&self) -> f64 {
        if self.per_token > 0.0 { self.fixed / self.per_token } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(x: f64) -> Duration {
        Duration::from_secs_f64(x)
    }

    #[test]
    fn the_line_through_the_batches_is_found() {
        let mut cost = Cost::default();
        for tokens in [1, 100, 1000, 500, 30] {
            cost.observe(tokens, seconds(0.002 + 1e-5 * tokens as f64));
        }
        assert!((cost.batch(0) - 0.002).abs() < 1e-9, "{cost:?}");
        assert!((cost.batch(2000) - 0.022).abs() < 1e-9, "{cost:?}");
        assert!((cost.token(1000) - 1.2e-5).abs() < 1e-9, "{cost:?}");
        assert!((cost.fixed_tokens() - 200.0).abs() < 1e-3, "{cost:?}");
    }

    #[test]
    fn a_slower_engine_is_noticed_soon() {
        let mut cost = Cost::default();
        cost.observe(1, seconds(0.001));
        cost.observe(1000, seconds(0.002));
        for _ in 0..100 {
            cost.observe(1000, seconds(0.2));
        }
        let predicted = cost.batch(1000);
        assert!((0.15..0.25).contains(&predicted), "{predicted}");
    }

    #[test]
    fn equal_batches_keep_the_form_and_meet_the_mean() {
        let mut cost = Cost::default();
        for _ in 0..10 {
            cost.observe(100, seconds(0.01));
        }
        assert!((cost.batch(100) - 0.01).abs() < 1e-9, "{cost:?}");
        assert!(cost.batch(200) > 0.015, "{cost:?}");
    }

    #[test]
    fn no_term_is_below_zero() {
        for (small, large) in [(0.02, 0.01), (0.000_001, 0.1)] {
            let mut cost = Cost::default();
            cost.observe(1, seconds(small));
            cost.observe(100, seconds(large));
            cost.observe(200, seconds(large * 3.0));
            assert!(cost.fixed >= 0.0 && cost.per_token >= 0.0, "{cost:?}");
        }
        assert_eq!(Cost::default().batch(1000), 0.0);
    }
}
