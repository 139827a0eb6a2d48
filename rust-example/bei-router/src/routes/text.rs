//! POST /tokenize and /decode.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bei_backend::{CallOptions, Text, Tokens};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::Body;
use crate::code_points::CodePoints;
use crate::failure::Failure;
use crate::inputs::{Input, Inputs};
use crate::reply;
use crate::routes::document::Errors;
use crate::routes::embed::yes;
use crate::tokenizer::CALL;

/// What /tokenize takes.
#[derive(Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// A text or a list of texts.
    pub inputs: Inputs,
    /// Whether the special tokens that the model needs are added.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub add_special_tokens: bool,
    /// Name of the model's prompt that is put before the texts.
    pub prompt_name: Option<String>,
}

/// A token. Special tokens come from no place in the text.
#[derive(Serialize, ToSchema)]
pub struct Token {
    pub id: u32,
    pub text: String,
    pub special: bool,
    /// First Unicode code point, in prompt + text.
    pub start: Option<u32>,
    /// One past the last.
    pub stop: Option<u32>,
}

/// What /decode takes.
#[derive(Deserialize, ToSchema)]
pub struct DecodeRequest {
    /// A list of token ids, or a list of such lists.
    pub ids: Inputs,
    /// Whether special tokens are left out.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub skip_special_tokens: bool,
}

/// The tokens of each text, however long it is.
#[utoipa::path(post, path = "/tokenize", tag = "Text",
    request_body(content = TokenizeRequest, example = json!({"inputs": ["What is Deep Learning?"], "add_special_tokens": true})),
    responses((status = 200, description = "For each text its tokens", body = Vec<Vec<Token>>), Errors))]
pub async fn tokenize(
    State(app): State<Arc<App>>,
    Body(request): Body<TokenizeRequest>,
) -> Result<Response, Failure> {
    let tokens = app.tokens(request.inputs, request.add_special_tokens, request.prompt_name).await?;
    let numbers = tokens.iter().map(|tokens| 6 * tokens.len()).sum();
    reply::json(&app, HeaderMap::new(), tokens, numbers).await
}

impl App {
    /// The tokens of each text, however long it is.
    pub async fn tokens(
        &self,
        inputs: Inputs,
        add_special_tokens: bool,
        prompt_name: Option<String>,
    ) -> Result<Vec<Vec<Token>>, Failure> {
        self.check_batch_size(inputs.items.len(), "inputs")?;
        let name = inputs.names("inputs");
        let prompt = self.prompt(prompt_name.as_deref()).to_string();
        let mut texts = Vec::with_capacity(inputs.items.len());
        for (i, input) in inputs.items.into_iter().enumerate() {
            match input {
                Input::Text(text) => texts.push(text),
                _ => return Err(Failure::validation("token ids; expected a text").of(&name(i))),
            }
        }
        let add_special_tokens = Some(add_special_tokens);
        let work = move |model: &bei_backend::Model| {
            let options = CallOptions {
                truncate: Some(false),
                prompt_name: prompt_name.as_deref(),
                add_special_tokens,
                ..CallOptions::default()
            };
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            spelled(model, &texts, &prompt, &options, name)
        };
        self.tokenizer.run(work).await?
    }

    /// The text of each list of token ids.
    pub async fn texts(&self, inputs: Inputs, skip_special_tokens: bool) -> Result<Vec<String>, Failure> {
        self.check_batch_size(inputs.items.len(), "ids")?;
        let name = inputs.names("ids");
        let mut lists = Vec::with_capacity(inputs.items.len());
        for (i, input) in inputs.items.into_iter().enumerate() {
            match input {
                Input::Ids(list) => lists.push(list),
                _ => return Err(Failure::validation("a text; expected token ids").of(&name(i))),
            }
        }
        let skip_special_tokens = Some(skip_special_tokens);
        let work = move |model: &bei_backend::Model| {
            let options = CallOptions { skip_special_tokens, ..CallOptions::default() };
            let mut texts = Vec::with_capacity(lists.len());
            for chunk in lists.chunks(CALL) {
                let (mut ids, mut lengths) = (Vec::new(), vec![0]);
                for list in chunk {
                    ids.extend_from_slice(list);
                    let total = u32::try_from(ids.len());
                    lengths
                        .push(total.map_err(|_| Failure::validation("ids: more than 4294967295 token ids"))?);
                }
                let result = model.decode(&ids, &lengths, &options)?;
                for i in 0..chunk.len() {
                    let text = result.text(i).map_err(|error| Failure::from(error).of(&name(texts.len())))?;
                    texts.push(text.into_owned());
                }
            }
            Ok::<_, Failure>(texts)
        };
        self.tokenizer.run(work).await?
    }
}

/// The tokens of each text after the prompt of `options`, which places count from. `name` names the input that an error is about.
pub fn spelled(
    model: &bei_backend::Model,
    texts: &[&str],
    prompt: &str,
    options: &CallOptions,
    name: impl Fn(usize) -> String,
) -> Result<Vec<Vec<Token>>, Failure> {
    let mut all = Vec::with_capacity(texts.len());
    for chunk in texts.chunks(CALL) {
        let inputs: Vec<Text> = chunk.iter().map(|&text| Text::from(text)).collect();
        let result = model.tokenize(&inputs, options)?;
        for (i, text) in chunk.iter().enumerate() {
            let tokens = result.tokens(i).map_err(|error| Failure::from(error).of(&name(all.len())))?;
            all.push(tokens_of(&tokens, &format!("{prompt}{text}")));
        }
    }
    Ok(all)
}

/// A token's text is its part of the input, as the family gives it; a special token has none, and shows its own spelling.
fn tokens_of(tokens: &Tokens, text: &str) -> Vec<Token> {
    let places = CodePoints::new(text);
    let token = |k| {
        let special = tokens.special[k] != 0;
        let (start, stop) = (tokens.starts[k], tokens.ends[k]);
        let part = if special { None } else { places.part(start, stop) };
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
#[utoipa::path(post, path = "/decode", tag = "Text",
    request_body(content = DecodeRequest, example = json!({"ids": [[2, 5, 3], [2, 7, 3]], "skip_special_tokens": true})),
    responses((status = 200, description = "For each list its text", body = Vec<String>), Errors))]
pub async fn decode(
    State(app): State<Arc<App>>,
    Body(request): Body<DecodeRequest>,
) -> Result<Response, Failure> {
    let texts = app.texts(request.ids, request.skip_special_tokens).await?;
    let numbers = texts.iter().map(String::len).sum::<usize>() / 8;
    reply::json(&app, HeaderMap::new(), texts, numbers).await
}
