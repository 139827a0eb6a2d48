use bei_sys as sys;

use crate::contract::{ModelType, Pool};

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Vectors: `embed`.
    Embedding,
    /// Class logits: `predict`.
    Classifier,
    /// Class logits of every token: `predict_tokens`.
    TokenClassifier,
}

/// What a router needs to know of an open model: `bei_info`. Constant while the model is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// What the model is for; `None` for a type that this crate does not know.
    pub task: Option<Task>,
    /// How token vectors become one vector; `None` where a model has no pooling, or one without a name here.
    pub pool: Option<Pool>,
    /// Floats of a pooled vector.
    pub dimensions: usize,
    /// Floats of a token vector, or labels of a token classifier.
    pub token_dimensions: usize,
    /// Classes.
    pub labels: usize,
    /// Token ids are below it.
    pub vocab_size: usize,
    /// Token type ids are below it.
    pub type_vocab_size: usize,
    /// Position id of an item's first token.
    pub position_offset: u32,
    /// Tokens of an item, special ones included.
    pub max_length: usize,
    /// Tokens of one engine run.
    pub max_tokens: usize,
    /// Items of one engine run.
    pub max_sequences: usize,
    /// Tokens a run that are fastest.
    pub best_tokens: usize,
    /// Runs in flight: a router keeps this many batch calls out.
    pub slots: usize,
    /// Whether a batch costs items times longest, not the sum of tokens.
    pub is_padded: bool,
    /// Whether the calls that take texts work.
    pub has_tokenizer: bool,
    /// Whether pooled vectors have length 1 by default.
    pub normalizes: bool,
}

impl Info {
    /// The model type in the family's terms; `None` for token classifiers and poolings that the family has no name for.
    pub fn model_type(&self) -> Option<ModelType> {
        match self.task? {
            Task::Embedding => self.pool.map(ModelType::Embedding),
            Task::Classifier => Some(ModelType::Classifier),
            Task::TokenClassifier => None,
        }
    }
}

impl From<sys::bei_info> for Info {
    fn from(info: sys::bei_info) -> Info {
        Info {
            task: match info.model_type {
                sys::BEI_MODEL_EMBEDDING => Some(Task::Embedding),
                sys::BEI_MODEL_CLASSIFIER => Some(Task::Classifier),
                sys::BEI_MODEL_TOKEN_CLASSIFIER => Some(Task::TokenClassifier),
                _ => None,
            },
            pool: match info.pooling {
                sys::BEI_POOLING_CLS => Some(Pool::Cls),
                sys::BEI_POOLING_MEAN => Some(Pool::Mean),
                sys::BEI_POOLING_SPLADE => Some(Pool::Splade),
                sys::BEI_POOLING_LAST_TOKEN => Some(Pool::LastToken),
                _ => None,
            },
            dimensions: info.dimensions as usize,
            token_dimensions: info.token_dimensions as usize,
            labels: info.labels as usize,
            vocab_size: info.vocab_size as usize,
            type_vocab_size: info.type_vocab_size as usize,
            position_offset: info.position_offset,
            max_length: info.max_length as usize,
            max_tokens: info.max_tokens as usize,
            max_sequences: info.max_sequences as usize,
            best_tokens: info.best_tokens as usize,
            slots: info.slots as usize,
            is_padded: info.is_padded != 0,
            has_tokenizer: info.has_tokenizer != 0,
            normalizes: info.normalizes != 0,
        }
    }
}
