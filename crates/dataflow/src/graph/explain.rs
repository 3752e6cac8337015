//! A graph as EXPLAIN shows it: an indented tree of operators for each INSERT, with what they keep and for how long.
use std::fmt;

use super::{Graph, NodeKind};
use crate::event_time;

impl Graph {
    /// The operators of a sink as an indented tree, for EXPLAIN.
    pub fn explain(&self, sink: usize) -> String {
        let mut text = String::new();
        self.explain_node(self.sinks[sink], 0, &mut text);
        text
    }

    fn explain_node(&self, index: usize, depth: usize, text: &mut String) {
        let node = &self.nodes[index];
        let (line, inputs, state) = match &node.kind {
            NodeKind::Source(source) if node.label.is_empty() => (format!("Source {source}"), vec![], None),
            NodeKind::Source(source) => (format!("Source {source}, {}", node.label), vec![], None),
            NodeKind::Exchange { exchange, input } => (exchange.describe(), vec![*input], None),
            NodeKind::Operator { operator, inputs, tables } => {
                let never = self.ttl_us.filter(|_| node.growing_tables(operator.as_ref()).contains(&true));
                let state = self.state_of(operator.as_ref(), tables).map(|state| match never {
                    Some(ttl_us) => {
                        state.replace("never dropped", &format!("dropped {} after the last change", event_time::length(ttl_us)))
                    }
                    None => state,
                });
                (node.shown(operator.as_ref()), inputs.clone(), state)
            }
        };
        if node.is_hidden {
            return inputs.into_iter().for_each(|input| self.explain_node(input, depth, text));
        }
        let kind = if node.changing { "changing" } else { "append-only" };
        let state = state.map_or(String::new(), |state| format!("; keeps {state}"));
        text.push_str(&format!("{}{line} [{kind}{state}]\n", "  ".repeat(depth)));
        inputs.into_iter().for_each(|input| self.explain_node(input, depth + 1, text));
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..self.sinks.len()).try_for_each(|sink| write!(f, "{}", self.explain(sink)))
    }
}
