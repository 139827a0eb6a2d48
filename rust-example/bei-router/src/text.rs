//! POST /tokenize and /decode.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bei_backend::{CallOptions, Text, Tokens};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::body::Body;
use crate::failure::Failure;
use crate::inputs::{Input, Inputs};

#[derive(Deserialize)]
pub struct TokenizeRequest {
    inputs: Inputs,
    #[serde(default = "yes")]
    add_special_tokens: bool,
    prompt_name: Option<String>,
}

/// A token. Special tokens come from no place in the text.
#[derive(Serialize)]
pub struct Token {
    id: u32,
    text: String,
    special: bool,
    /// First Unicode code point, in prompt + text.
    start: Option<u32>,
    /// One past the last.
    stop: Option<u32>,
}

#[derive(Deserialize)]
pub struct DecodeRequest {
    ids: Inputs,
    #[serde(default = "yes")]
    skip_special_tokens: bool,
}

fn yes() -> bool {
    true
}

/// The tokens of each text, however long it is.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    Body(request): Body<TokenizeRequest>,
) -> Result<Json<Vec<Vec<Token>>>, Failure> {
    app.check_batch_size(request.inputs.items.len(), "inputs")?;
    let name = request.inputs.names("inputs");
    let prompt = app.prompt(request.prompt_name.as_deref()).to_string();
    let mut texts = Vec::with_capacity(request.inputs.items.len());
    for (i, input) in request.inputs.items.into_iter().enumerate() {
        match input {
            Input::Text(text) => texts.push(text),
            Input::Ids(_) => return Err(Failure::validation("token ids; expected a text").of(&name(i))),
        }
    }
    let (prompt_name, add_special_tokens) = (request.prompt_name, Some(request.add_special_tokens));
    let work = move |model: &bei_backend::Model| {
        let inputs: Vec<Text> = texts.iter().map(|text| Text::from(text.as_str())).collect();
        let options = CallOptions {
            truncate: Some(false),
            prompt_name: prompt_name.as_deref(),
            add_special_tokens,
            ..CallOptions::default()
        };
        let result = model.tokenize(&inputs, &options)?;
        let tokens = |(i, text): (usize, &String)| match result.tokens(i) {
            Ok(tokens) => Ok(spelled(&tokens, &format!("{prompt}{text}"))),
            Err(error) => Err(Failure::from(error).of(&name(i))),
        };
        texts.iter().enumerate().map(tokens).collect::<Result<Vec<_>, Failure>>()
    };
    app.tokenizer.run(work).await?.map(Json)
}

/// A token's text is its part of the input, as the family gives it; a special token has none, and shows its own spelling.
fn spelled(tokens: &Tokens, text: &str) -> Vec<Token> {
    let mut places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
    places.push(text.len());
    let token = |k| {
        let special = tokens.special[k] != 0;
        let (start, stop) = (tokens.starts[k], tokens.ends[k]);
        let part = match (special, places.get(start as usize), places.get(stop as usize)) {
            (false, Some(&first), Some(&last)) => text.get(first..last),
            _ => None,
        };
        Token {
            id: tokens.ids[k],
            text: part.map_or_else(|| tokens.piece(k).into_owned(), str::to_string),
            special,
            start: (!special).then_some(start),
            stop: (!special).then_some(stop),
        }
    };
    (0..tokens.len()).map(token).collect()
}

/// The text of each list of token ids.
pub async fn decode(
    State(app): State<Arc<App>>,
    Body(request): Body<DecodeRequest>,
) -> Result<Json<Vec<String>>, Failure> {
    let n = request.ids.items.len();
    app.check_batch_size(n, "ids")?;
    let name = request.ids.names("ids");
    let (mut ids, mut lengths) = (Vec::new(), Vec::with_capacity(n + 1));
    lengths.push(0);
    for (i, input) in request.ids.items.into_iter().enumerate() {
        match input {
            Input::Ids(list) => ids.extend(list),
            Input::Text(_) => return Err(Failure::validation("a text; expected token ids").of(&name(i))),
        }
        let total = u32::try_from(ids.len());
        lengths.push(total.map_err(|_| Failure::validation("ids: more than 4294967295 token ids"))?);
    }
    let skip_special_tokens = Some(request.skip_special_tokens);
    let work = move |model: &bei_backend::Model| {
        let options = CallOptions { skip_special_tokens, ..CallOptions::default() };
        let result = model.decode(&ids, &lengths, &options)?;
        let text = |i| match result.text(i) {
            Ok(text) => Ok(text.into_owned()),
            Err(error) => Err(Failure::from(error).of(&name(i))),
        };
        (0..n).map(text).collect::<Result<Vec<_>, Failure>>()
    };
    app.tokenizer.run(work).await?.map(Json)
}
