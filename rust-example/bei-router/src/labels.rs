use std::sync::Arc;

use serde_json::{Map, Value, json};

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
    pub fn maps(&self) -> Value {
        let (mut by_id, mut by_label) = (Map::new(), Map::new());
        for (i, name) in self.names.iter().enumerate() {
            by_id.insert(i.to_string(), json!(name));
            by_label.insert(name.to_string(), json!(i));
        }
        json!({"id2label": by_id, "label2id": by_label})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_without_a_name_get_one() {
        let labels = Labels::new(&json!({"labels": ["no", "yes"], "entity_groups": ["N"]}), 3);
        let names: Vec<_> =
            (0..4).map(|i| (labels.label(i).to_string(), labels.group(i).to_string())).collect();
        let expected = [("no", "N"), ("yes", "LABEL_1"), ("LABEL_2", "LABEL_2"), ("LABEL_3", "LABEL_3")];
        assert_eq!(names, expected.map(|(a, b)| (a.to_string(), b.to_string())));
        assert_eq!(labels.maps()["label2id"], json!({"no": 0, "yes": 1, "LABEL_2": 2}));
        assert_eq!(Labels::new(&Value::Null, 0).maps(), json!({"id2label": {}, "label2id": {}}));
    }
}
