//! What is computed before the server takes requests: the warm-up, and the comparison of two engines.

use std::time::Instant;

use bei_backend::{Error, Model, Outputs, Task};

use crate::call::{Packed, run};
use crate::scheduler::{Budget, Cost};
use crate::work::{Outcome, Want, Work};

/// What a model of its kind computes of token ids.
fn wanted(model: &Model) -> Want {
    match model.info().task {
        Some(Task::Classifier) => Want::Logits,
        Some(Task::TokenClassifier) => Want::Embed(Outputs::TOKEN_VECTORS),
        _ => Want::Embed(Outputs::POOLED),
    }
}

fn compute(model: &Model, inputs: Vec<Vec<u32>>) -> Result<Vec<Outcome>, Error> {
    let works: Vec<Work> = inputs.into_iter().map(|ids| Work::tokens(wanted(model), ids, None)).collect();
    let works: Vec<&Work> = works.iter().collect();
    let called = run(model, &mut Packed::default(), &works)?;
    works.iter().enumerate().map(|(i, work)| called.outcome(i, work)).collect()
}

/// Does what the family's router does before it listens: one token, then the largest batch that there will be. Both must succeed;
/// their times are the first guess of what batches cost.
pub fn warm_up(model: &Model, tokens: usize, budget: Budget) -> Result<Cost, Error> {
    let longest = model.info().max_length.min(tokens).max(1);
    let mut lengths = vec![longest];
    if !budget.padded {
        let mut rest = tokens.saturating_sub(longest);
        while rest > 0 && lengths.len() < budget.inputs {
            lengths.push(rest.min(longest));
            rest -= rest.min(longest);
        }
    }
    let mut cost = Cost::default();
    for lengths in [vec![1], lengths] {
        let tokens = lengths.iter().sum();
        let inputs = lengths.into_iter().map(|length| vec![0; length]).collect();
        let began = Instant::now();
        compute(model, inputs)?;
        cost.observe(tokens, began.elapsed());
    }
    Ok(cost)
}

/// Least cosine of what two engines compute of one input.
const LEAST_COSINE: f64 = 0.999;

/// Checks that both models compute the same of some inputs, or says what differs.
pub fn check_parity(first: &Model, second: &Model) -> Result<(), String> {
    let (vocabulary, longest) = (first.info().vocab_size.max(1), first.info().max_length);
    // Any ids will do: both get the same. The factors spread them over the vocabulary.
    let input = |seed: usize, length: usize| {
        (0..length.min(longest)).map(|k| ((seed * 7919 + k * 104_729) % vocabulary) as u32).collect()
    };
    let inputs: Vec<Vec<u32>> = [2, 7, 16, 50].into_iter().map(|length| input(length, length)).collect();
    let answers = |model| compute(model, inputs.clone()).map_err(|error| error.message);
    for (i, (a, b)) in answers(first)?.iter().zip(&answers(second)?).enumerate() {
        let cosine = cosine(numbers(a), numbers(b));
        if cosine.is_nan() || cosine < LEAST_COSINE {
            return Err(format!(
                "the engines differ: the cosine of probe {i} is {cosine}, and must be at least {LEAST_COSINE}"
            ));
        }
    }
    Ok(())
}

fn numbers(outcome: &Outcome) -> &[f32] {
    match outcome {
        Outcome::Logits(logits) => logits,
        Outcome::Embedding(outputs) => match (&outputs.pooled, &outputs.token_vectors) {
            (Some(vector), _) => vector,
            (None, Some(rows)) => &rows.data,
            (None, None) => &[],
        },
        Outcome::Entities(entities) => &entities.logits.data,
        Outcome::Spans(rows) => &rows.data,
    }
}

/// Of vectors of another length, NaN. One number alone has no direction: there the ratio counts.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum() };
    let (ab, aa, bb) = (dot(a, b), dot(a, a), dot(b, b));
    if a.len() == 1 { ab / aa.max(bb) } else { ab / (aa * bb).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_directions_have_cosine_one() {
        for (a, b, expected) in [
            (vec![1.0, 2.0], vec![2.0, 4.0], 1.0),
            (vec![1.0, 0.0], vec![0.0, 1.0], 0.0),
            (vec![2.0], vec![2.0], 1.0),
            (vec![2.0], vec![1.0], 0.5),
        ] {
            assert!((cosine(&a, &b) - expected).abs() < 1e-9, "{a:?} {b:?}");
        }
        assert!(cosine(&[1.0], &[1.0, 2.0]).is_nan() && cosine(&[0.0, 0.0], &[0.0, 0.0]).is_nan());
    }
}
