//! POST /embed_outputs: several outputs of one pass, with offsets, and vectors of spans (late chunking).

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bei_backend::{ItemOutputs, Outputs, Span};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::Body;
use crate::failure::Failure;
use crate::finish::Finish;
use crate::inference::Job;
use crate::inputs::{Input, Inputs, Texts};
use crate::reply;
use crate::routes::document::{ContextHeaders, Errors};
use crate::routes::embed::{SparseValue, sparse_values, yes};
use crate::routes::text::{Token, spelled};
use crate::timing::Timing;
use crate::tokenizer::{EncodeOptions, TruncationDirection};
use crate::work::Context;

/// What /embed_outputs takes.
#[derive(Deserialize, ToSchema)]
pub struct OutputsRequest {
    /// A text, a list of texts, or a list of lists of one text.
    pub inputs: Texts,
    /// What is wanted of each text.
    #[schema(min_items = 1)]
    pub outputs: Vec<Output>,
    /// For each text its spans: pairs of the first code point, and one past the last. Needs the output spans.
    #[serde(default)]
    pub spans: Vec<Vec<(u32, u32)>>,
    /// Whether texts that are too long are cut; default: the server's auto_truncate.
    pub truncate: Option<bool>,
    /// The side that is cut off.
    #[serde(default)]
    pub truncation_direction: TruncationDirection,
    /// Name of the model's prompt that is put before the texts.
    pub prompt_name: Option<String>,
    /// Whether vectors of texts and spans are brought to length 1. Those of tokens are raw.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub normalize: bool,
    /// Keeps the first numbers of vectors of texts and spans only (Matryoshka).
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
}

/// What can be had of a text. Pooled, sparse and tokens come from one pass; spans from one of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// One vector.
    Pooled,
    /// Weights above zero by token id.
    Sparse,
    /// The tokens, with their place in the text and a vector each.
    Tokens,
    /// A vector for each span.
    Spans,
}

/// What was asked for of one text.
#[derive(Default, Serialize, ToSchema)]
pub struct OutputsItem {
    #[serde(skip_serializing_if = "Option::is_none")]
    pooled: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparse: Option<Vec<SparseValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<TokenOutput>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spans: Option<Vec<SpanOutput>>,
}

/// A token and its vector.
#[derive(Serialize, ToSchema)]
pub struct TokenOutput {
    /// Its place is in the text, without the prompt; the prompt's tokens have none.
    #[serde(flatten)]
    token: Token,
    /// `null` where the model gives the token none (bge-m3's first).
    vector: Option<Vec<f32>>,
}

/// A span and its vector.
#[derive(Serialize, ToSchema)]
pub struct SpanOutput {
    start: u32,
    end: u32,
    vector: Vec<f32>,
}

impl OutputsRequest {
    fn wants(&self, output: Output) -> bool {
        self.outputs.contains(&output)
    }

    /// The outputs that one pass gives.
    fn of_one_pass(&self) -> Option<Outputs> {
        let wanted = [
            (Output::Pooled, Outputs::POOLED),
            (Output::Sparse, Outputs::SPARSE),
            (Output::Tokens, Outputs::TOKEN_VECTORS),
        ];
        let wanted = wanted.into_iter().filter(|(output, _)| self.wants(*output)).map(|(_, bit)| bit);
        wanted.reduce(|all, bit| all | bit)
    }

    fn check(&self) -> Result<(), Failure> {
        let (spans, texts) = (self.spans.len(), self.inputs.0.items.len());
        if self.outputs.is_empty() {
            return Err(Failure::empty("outputs is empty; it can hold pooled, sparse, tokens and spans"));
        }
        match (self.wants(Output::Spans), spans == texts) {
            (true, false) => Err(Failure::validation(format!(
                "spans has {spans} lists; there are {texts} inputs, and each needs one"
            ))),
            (false, _) if spans > 0 => {
                Err(Failure::validation("spans are given, and outputs does not hold \"spans\""))
            }
            _ => Ok(()),
        }
    }
}

/// Any of: a vector of each text, its sparse weights, its tokens with their vectors, and vectors of its spans.
#[utoipa::path(post, path = "/embed_outputs", tag = "Embedding", params(ContextHeaders),
    request_body(content = OutputsRequest, examples(
        ("tokens" = (value = json!({"inputs": "What is Deep Learning?", "outputs": ["pooled", "tokens"]}))),
        ("late chunking" = (value = json!({"inputs": ["It rains. Take it with you."], "outputs": ["pooled", "spans"],
            "spans": [[[0, 9], [10, 27]]]}))),
    )),
    responses((status = 200, description = "For each text what was asked for", body = Vec<OutputsItem>), Errors))]
pub async fn embed_outputs(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    Body(request): Body<OutputsRequest>,
) -> Result<Response, Failure> {
    let context = Context { numbers: Some(Arc::default()), ..context? };
    request.check()?;
    let one_pass = request.of_one_pass();
    let (wants_tokens, wants_spans) = (request.wants(Output::Tokens), request.wants(Output::Spans));
    let finish = Finish { dimensions: request.dimensions, normalize: request.normalize };
    let options = app.encode_options(request.truncate, request.truncation_direction, request.prompt_name);
    let Texts(inputs) = request.inputs;
    let n = inputs.items.len();
    let job = || Job::new(inputs.clone(), "inputs", options.clone());

    let of_one_pass = async {
        match one_pass {
            Some(outputs) => app.outputs(job(), outputs, finish, context.clone()).await.map(Some),
            None => Ok(None),
        }
    };
    let of_spans = async {
        let spans = |spans: &Vec<(u32, u32)>| spans.iter().map(|&(start, end)| Span { start, end }).collect();
        match wants_spans {
            true => {
                let spans: Vec<Vec<Span>> = request.spans.iter().map(spans).collect();
                // The other pass may have taken all the room: what belongs to an admitted request waits.
                let context = Context { waits: context.waits || one_pass.is_some(), ..context.clone() };
                app.spans(job(), spans, finish, context).await.map(Some)
            }
            false => Ok(None),
        }
    };
    let of_texts = async {
        match wants_tokens {
            true => app.spelled(&inputs, &options).await.map(Some),
            false => Ok(None),
        }
    };
    // The passes wait for each other's batches in the queue, not one after the other.
    let (outputs, spans, tokens) = tokio::try_join!(of_one_pass, of_spans, of_texts)?;

    let (outputs, spent) = outputs.unzip();
    let (vectors, spent_on_spans) = spans.unzip();
    let mut items: Vec<OutputsItem> = (0..n).map(|_| OutputsItem::default()).collect();
    let mut tokens = tokens.unwrap_or_default().into_iter();
    for (item, outputs) in items.iter_mut().zip(outputs.unwrap_or_default()) {
        let ItemOutputs { pooled, token_vectors, sparse } = outputs;
        item.pooled = pooled;
        item.sparse = sparse.map(sparse_values);
        item.tokens = token_vectors.map(|rows| {
            let tokens = tokens.next().unwrap_or_default();
            let without = tokens.len().saturating_sub(rows.len());
            let mut rows = rows.iter().map(<[f32]>::to_vec);
            let token =
                |(k, token)| TokenOutput { token, vector: if k < without { None } else { rows.next() } };
            tokens.into_iter().enumerate().map(token).collect()
        });
    }
    for ((item, vectors), spans) in items.iter_mut().zip(vectors.unwrap_or_default()).zip(&request.spans) {
        let span = |(vector, &(start, end))| SpanOutput { start, end, vector };
        item.spans = Some(vectors.into_iter().zip(spans).map(span).collect());
    }
    let numbers = items.iter().map(numbers).sum();
    let headers = Timing::joined(spent, spent_on_spans).map(|timing| timing.headers(&app.compute_type));
    reply::json(&app, headers.unwrap_or_default(), items, numbers).await
}

fn numbers(item: &OutputsItem) -> usize {
    let vectors = item.spans.iter().flatten().map(|span| span.vector.len() + 4).sum::<usize>();
    let tokens = item.tokens.iter().flatten();
    let tokens = tokens.map(|token| token.vector.as_ref().map_or(0, Vec::len) + 8).sum::<usize>();
    vectors + tokens + item.pooled.as_ref().map_or(0, Vec::len) + 3 * item.sparse.as_ref().map_or(0, Vec::len)
}

impl App {
    /// The tokens that a pass sees of each text, with their places in the text.
    async fn spelled(&self, inputs: &Inputs, options: &EncodeOptions) -> Result<Vec<Vec<Token>>, Failure> {
        let prompt = self.prompt(options.prompt_name.as_deref()).to_string();
        let (name, options, items) = (inputs.names("inputs"), options.clone(), inputs.items.clone());
        let work = move |model: &bei_backend::Model| {
            let texts: Vec<&str> = (items.iter())
                .map(|input| match input {
                    Input::Text(text) => text.as_str(),
                    _ => "",
                })
                .collect();
            let all = spelled(model, &texts, &prompt, &options.call_options(), name)?;
            let prompt = prompt.chars().count();
            Ok::<_, Failure>(all.into_iter().map(|tokens| within(tokens, prompt)).collect())
        };
        self.tokenizer.run(work).await?
    }
}

/// Tokens with their places in the text after a prompt of so many code points.
fn within(mut tokens: Vec<Token>, prompt: usize) -> Vec<Token> {
    for token in &mut tokens {
        let behind = |place: Option<u32>| place.and_then(|place| place.checked_sub(prompt as u32));
        (token.start, token.stop) = match (behind(token.start), behind(token.stop)) {
            (Some(start), Some(stop)) => (Some(start), Some(stop)),
            // A token that begins in the prompt and ends in the text begins the text.
            (None, Some(stop)) if stop > 0 => (Some(0), Some(stop)),
            _ => (None, None),
        };
    }
    tokens
}
