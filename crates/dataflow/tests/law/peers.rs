//! Parts of a job in threads of this process: what they exchange goes through channels, one for each pair.
use std::{
    sync::{
        Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use datafusion::{
    arrow::datatypes::SchemaRef,
    common::{Result, exec_datafusion_err},
};
use polybolos_dataflow::{ByPart, Delta, Peers};

/// A part that failed lets go of its channels; one that waits for longer than this waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

type Message = (usize, Vec<Vec<Delta>>);

/// One part's ends.
pub struct Mesh {
    part: usize,
    to: Vec<Sender<Message>>,
    from: Vec<Receiver<Message>>,
}

/// The ends of so many parts.
pub fn mesh(parts: usize) -> Vec<Mutex<Mesh>> {
    let mut ends: Vec<Mesh> = (0..parts).map(|part| Mesh { part, to: vec![], from: vec![] }).collect();
    for to in 0..parts {
        for from in 0..parts {
            let (sender, receiver) = channel();
            ends[from].to.push(sender);
            ends[to].from.push(receiver);
        }
    }
    ends.into_iter().map(Mutex::new).collect()
}

/// What a part sees of the others.
pub struct Ends<'a>(pub &'a Mutex<Mesh>);

impl Peers for Ends<'_> {
    fn trade(&self, step: usize, schema: &SchemaRef, rows: ByPart) -> Result<ByPart> {
        let mesh = self.0.lock().map_err(|_| exec_datafusion_err!("a trade panicked"))?;
        for (part, (to, rows)) in mesh.to.iter().zip(rows).enumerate() {
            assert!(rows.iter().flatten().all(|delta| delta.batch().schema().fields().len() == schema.fields().len()));
            to.send((step, rows)).map_err(|_| exec_datafusion_err!("part {} cannot reach part {part}", mesh.part))?;
        }
        let hear = |(part, from): (usize, &Receiver<Message>)| {
            let (of, rows) = from.recv_timeout(PATIENCE).map_err(|_| exec_datafusion_err!("part {part} is gone"))?;
            if of == step { Ok(rows) } else { Err(exec_datafusion_err!("part {part} is at step {of}, this one at {step}")) }
        };
        mesh.from.iter().enumerate().map(hear).collect()
    }
}
