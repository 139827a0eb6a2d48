//! What the library's mock engine computes, written a second time: a check of learned answers that does not trust the server.

/// Numbers in which the rows of tokens differ.
const FACTORS: usize = 8;

/// The vector that the mock engine gives for token ids, type 0 and positions from 0, brought to length 1: the mean of the
/// tokens' rows. Column k of a row is one of the factors that SplitMix64 (Steele, Lea, Flood 2014) makes of id and position,
/// times a weight that it makes of k.
pub fn vector(ids: &[u32], dimensions: usize) -> Vec<f32> {
    let mut mean = [0.0f32; FACTORS];
    for (position, &id) in (0u64..).zip(ids) {
        let seed = u64::from(id) << 32 ^ position;
        for (k, x) in (1u64..).zip(&mut mean) {
            *x += value(seed, k) / ids.len() as f32;
        }
    }
    let factors = mean.iter().cycle();
    let row: Vec<f32> =
        (1u64..).zip(factors).take(dimensions).map(|(k, factor)| factor * value(0, k)).collect();
    let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    row.iter().map(|&x| (f64::from(x) / length) as f32).collect()
}

fn value(seed: u64, k: u64) -> f32 {
    let mut z = seed.wrapping_add(k.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 32) as u32 as i32 as f32 / (1u32 << 31) as f32
}
