//! What the library's mock engine computes, written a second time: a check of learned answers that does not trust the server.

/// The vector that the mock engine gives for token ids, type 0 and positions from 0, brought to length 1: the mean of the
/// tokens' rows, each of which SplitMix64 (Steele, Lea, Flood 2014) makes of id and position.
pub fn vector(ids: &[u32], dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0.0f32; dimensions];
    for (position, &id) in (0u64..).zip(ids) {
        let seed = u64::from(id) << 32 ^ position;
        for (k, x) in (1u64..).zip(&mut sum) {
            *x += value(seed, k) / ids.len() as f32;
        }
    }
    let length = sum.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    sum.iter().map(|&x| (f64::from(x) / length) as f32).collect()
}

fn value(seed: u64, k: u64) -> f32 {
    let mut z = seed.wrapping_add(k.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 32) as u32 as i32 as f32 / (1u32 << 31) as f32
}
