//! Prints how close two texts are in meaning: `cargo run --example embed -- FOLDER`.

use bei_backend::{CallOptions, Model, Options, Text};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: embed FOLDER (of a sentence-transformers model)")?;
    let model = Model::open(&Options::new(folder))?;

    let texts = [Text::from("A cat sits on the mat."), Text::from("There is a cat on the rug.")];
    let options = CallOptions { normalize: Some(true), ..CallOptions::default() };
    let result = model.embed_texts(&texts, &options)?;

    // Each item succeeds or fails on its own; `?` gives the item's own error.
    let (a, b) = (result.pooled(0)?, result.pooled(1)?);
    let cosine: f32 = a.iter().zip(b).map(|(x, y)| x * y).sum();
    println!("{} dimensions, cosine {cosine:.4}", a.len());
    Ok(())
}
