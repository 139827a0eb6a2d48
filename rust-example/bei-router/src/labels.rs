use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// What a classifier's labels are called.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    names: Vec<Arc<str>>,
    /// By label: what joined entities are called.
    groups: Vec<Arc<str>>,
}

impl Labels {
    /// As the library's info tells them. Labels without a name are called as transformers calls them.
    pub fn new(info: &Value, count: usize) -> Labels {
        let list = |key: &str| -> Vec<Arc<str>> {
            let name = |i: usize| match info[key][i].as_str() {
                Some(name) => Arc::from(name),
                None => Arc::from(format!("LABEL_{i}")),
            };
            (0..count).map(name).collect()
        };
        Labels { names: list("labels"), groups: list("entity_groups") }
    }

    pub fn label(&self, i: usize) -> Arc<str> {
        self.names.get(i).cloned().unwrap_or_else(|| Arc::from(format!("LABEL_{i}")))
    }

    pub fn group(&self, i: usize) -> Arc<str> {
        self.groups.get(i).cloned().unwrap_or_else(|| self.label(i))
    }

    /// The family's two maps, for /info.
    pub fn maps(&self) -> LabelMaps {
        let numbered = || self.names.iter().map(|name| name.to_string()).enumerate();
        LabelMaps {
            id2label: numbered().collect(),
            label2id: numbered().map(|(i, name)| (name, i)).collect(),
        }
    }
}

/// The labels of a classifier, as a model's configuration has them.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LabelMaps {
    #[schema(value_type = std::collections::HashMap<String, String>)]
    id2label: BTreeMap<usize, String>,
    label2id: BTreeMap<String, usize>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_without_a_name_get_one() {
        let labels = Labels::new(&json!({"labels": ["no", "yes"], "entity_groups": ["N"]}), 3);
        let names: Vec<_> =
            (0..4).map(|i| (labels.label(i).to_string(), labels.group(i).to_string())).collect();
        let expected = [("no", "N"), ("yes", "LABEL_1"), ("LABEL_2", "LABEL_2"), ("LABEL_3", "LABEL_3")];
        assert_eq!(names, expected.map(|(a, b)| (a.to_string(), b.to_string())));
        assert_eq!(
            json!(labels.maps()),
            json!({"id2label": {"0": "no", "1": "yes", "2": "LABEL_2"}, "label2id": {"no": 0, "yes": 1, "LABEL_2": 2}})
        );
        assert_eq!(json!(Labels::new(&Value::Null, 0).maps()), json!({"id2label": {}, "label2id": {}}));
    }
}
