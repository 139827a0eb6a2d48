use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::class::{Class, Form, Span};
use crate::connection::{Connection, Message, Outcome, Target, hash};
use crate::mock;

const TIMEOUT: &str = "request-timeout-ms";

/// A request, and the hash of the answer that it must get.
pub struct Item {
    /// Index of its class.
    pub class: usize,
    pub(crate) message: Message,
    pub(crate) expected: Option<u128>,
    inputs: Vec<Value>,
}

/// Why the requests could not be made, or their answers not be learned.
#[derive(Debug, thiserror::Error)]
#[error("class {class}: {reason}")]
pub struct PlanError {
    class: String,
    reason: String,
}

/// All requests of a run with their answers.
pub struct Plan {
    /// The kinds of request.
    pub classes: Vec<Class>,
    /// The server.
    pub target: Target,
    items: Vec<Item>,
    /// Where each class begins in `items`, and the sum of the shares up to it and its own.
    ranges: Vec<(usize, f64)>,
    answers: HashMap<u128, usize>,
}

/// Words of texts.
const WORDS: &[&str] = &[
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not",
    "he", "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one",
    "you", "were", "her", "all", "she", "there", "would", "their", "we", "him", "been", "has", "when", "who",
    "will", "more", "no", "if", "out", "so", "said", "what", "up", "its", "about", "into", "than", "them",
    "can", "only", "other", "new", "some", "water", "house", "river", "music", "paper", "stone", "light",
    "garden", "winter", "market", "bridge", "letter",
];

/// How far a learned number may be from the computed one: the rounding of float32 sums.
const TOLERANCE: f32 = 2e-6;

/// Requests under way at once while answers are learned and compared with computed ones. Without a comparison one at a time is
/// sent, so that no answer can be another's.
const LEARNERS: usize = 8;

impl Plan {
    /// Makes the requests of each class from a seed. Token ids are below `vocabulary`.
    pub fn new(target: Target, classes: Vec<Class>, vocabulary: u32, seed: u64) -> Result<Plan, PlanError> {
        let mut random = fastrand::Rng::with_seed(seed);
        let total: f64 = classes.iter().map(|class| class.share).sum();
        let (mut items, mut ranges, mut sum) = (Vec::new(), Vec::new(), 0.0);
        for (index, class) in classes.iter().enumerate() {
            sum += class.share / total;
            ranges.push((items.len(), sum));
            for _ in 0..class.distinct {
                let made = item(&target, index, class, vocabulary, &mut random);
                items.push(made.map_err(|reason| PlanError { class: class.name.clone(), reason })?);
            }
        }
        Ok(Plan { classes, target, items, ranges, answers: HashMap::new() })
    }

    /// The number of a request at random, by the classes' shares.
    pub fn pick(&self, random: &mut fastrand::Rng) -> usize {
        let at = random.f64();
        let class = self.ranges.iter().position(|range| at < range.1).unwrap_or(self.ranges.len() - 1);
        let first = self.ranges[class].0;
        first + random.usize(..self.classes[class].distinct)
    }

    /// Request i.
    pub fn item(&self, i: usize) -> &Item {
        &self.items[i]
    }

    /// Whether an answer is that of another request.
    pub(crate) fn is_of_another(&self, answer: u128) -> bool {
        self.answers.contains_key(&answer)
    }

    /// Asks for every answer once, before any load. With `dimensions`, each is compared with what the mock engine must give.
    pub async fn learn(&mut self, dimensions: Option<usize>) -> Result<(), PlanError> {
        let plan = &*self;
        let (idle, doubled) = (RefCell::new(Vec::new()), Rc::new(Cell::new(0)));
        let (idle, doubled) = (&idle, &doubled);
        let answers = stream::iter(&plan.items)
            .map(|item| async move {
                let mut slot = idle.borrow_mut().pop();
                let answer = plan.ask(item, dimensions, &mut slot, doubled).await;
                idle.borrow_mut().extend(slot);
                answer.map_err(|reason| PlanError { class: plan.classes[item.class].name.clone(), reason })
            })
            .buffered(if dimensions.is_some() { LEARNERS } else { 1 })
            .try_collect::<Vec<u128>>();
        let answers = LocalSet::new().run_until(answers).await?;
        for (i, (item, answer)) in self.items.iter_mut().zip(answers).enumerate() {
            item.expected = Some(answer);
            self.answers.insert(answer, i);
        }
        Ok(())
    }

    async fn ask(
        &self,
        item: &Item,
        dimensions: Option<usize>,
        slot: &mut Option<Connection>,
        doubled: &Rc<Cell<u64>>,
    ) -> Result<u128, String> {
        // Learning has no deadline.
        let mut message = item.message.clone();
        message.headers.remove(TIMEOUT);
        let body = answer(slot, &self.target, doubled, &message).await?;
        let Some(dimensions) = dimensions else { return Ok(hash(&body)) };
        let vectors = vectors(&body)?;
        if vectors.len() != item.inputs.len() {
            return Err(format!("{} vectors for {} inputs", vectors.len(), item.inputs.len()));
        }
        for (input, vector) in item.inputs.iter().zip(vectors) {
            let ids = match input {
                Value::String(_) => self.tokens(input, slot, doubled).await?,
                ids => serde_json::from_value(ids.clone()).map_err(|error| error.to_string())?,
            };
            let right = mock::vector(&ids, dimensions);
            if vector.len() != dimensions || vector.iter().zip(&right).any(|(a, b)| (a - b).abs() > TOLERANCE)
            {
                return Err(format!("the answer to {input} is not what the mock engine computes of it"));
            }
        }
        Ok(hash(&body))
    }

    async fn tokens(
        &self,
        text: &Value,
        slot: &mut Option<Connection>,
        doubled: &Rc<Cell<u64>>,
    ) -> Result<Vec<u32>, String> {
        let body = json!({"inputs": text}).to_string().into();
        let message = self.target.message(Uri::from_static("/tokenize"), &[], body)?;
        let body = answer(slot, &self.target, doubled, &message).await?;
        let tokens: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let tokens = tokens[0].as_array().ok_or("/tokenize gave no list")?;
        let ids = tokens.iter().map(|token| u32::try_from(token["id"].as_u64()?).ok());
        ids.collect::<Option<_>>().ok_or_else(|| "/tokenize gave no ids".to_string())
    }
}

/// The body of an answer that must be 200.
async fn answer(
    slot: &mut Option<Connection>,
    target: &Target,
    doubled: &Rc<Cell<u64>>,
    message: &Message,
) -> Result<Bytes, String> {
    match Connection::send(slot, target, doubled, message, None).await {
        Outcome::Answer { status: 200, body: Some(body), .. } => Ok(body),
        Outcome::Answer { status, body, .. } => {
            let body = body.unwrap_or_default();
            Err(format!("{} answered {status}: {}", message.uri, String::from_utf8_lossy(&body)))
        }
        Outcome::Refused(error) | Outcome::Lost(error) => Err(format!("{}: {error}", message.uri)),
    }
}

fn vectors(body: &[u8]) -> Result<Vec<Vec<f32>>, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let vectors = match answer["data"].as_array() {
        Some(data) => data.iter().map(|entry| entry["embedding"].clone()).collect(),
        None => answer,
    };
    serde_json::from_value(vectors).map_err(|error| format!("no vectors in the answer: {error}"))
}

fn item(
    target: &Target,
    index: usize,
    class: &Class,
    vocabulary: u32,
    random: &mut fastrand::Rng,
) -> Result<Item, String> {
    let some = |span: Span, random: &mut fastrand::Rng| random.usize(span.first..=span.last);
    let count = some(class.inputs, random);
    let inputs: Vec<Value> = (0..count)
        .map(|_| {
            let length = some(class.tokens, random);
            match class.form {
                Form::Ids => (0..length).map(|_| random.u32(..vocabulary)).collect(),
                Form::Texts => {
                    let words: Vec<&str> = (0..length).map(|_| WORDS[random.usize(..WORDS.len())]).collect();
                    Value::String(words.join(" "))
                }
            }
        })
        .collect();
    let value = if count == 1 { &inputs[0] } else { &json!(inputs) };
    let field = if class.route.ends_with("/embeddings") { "input" } else { "inputs" };
    let body = json!({field: value}).to_string();
    let mut headers = Vec::new();
    if let Some(timeout) = class.timeout_ms {
        headers.push((HeaderName::from_static(TIMEOUT), HeaderValue::from(timeout)));
    }
    if let Some(priority) = &class.priority {
        let value =
            HeaderValue::from_str(priority).map_err(|error| format!("priority={priority}: {error}"))?;
        headers.push((HeaderName::from_static("x-request-priority"), value));
    }
    let uri: Uri = class.route.parse().map_err(|error| format!("route={}: {error}", class.route))?;
    let message = target.message(uri, &headers, body.into())?;
    Ok(Item { class: index, message, inputs, expected: None })
}
