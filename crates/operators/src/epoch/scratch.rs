//! Rows that wait on this executor's disk until their part of the keys is merged: in a file without a name, which goes with the
//! merge or with the process. Blocks are small part files, for their checksums.
use std::{fs::File, io, os::unix::fs::FileExt};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use polybolos_persist::part::{self, Encoded};
use polybolos_state::{StateError, parts_of};

use super::{
    compact::CompactError,
    space::{StateSpace, unusable},
};

pub(super) struct Scratch {
    file: File,
    /// Where that is, for people.
    place: String,
    end: u64,
    /// Of each part, in the order in which they came.
    blocks: Vec<Vec<Block>>,
}

#[derive(Clone, Copy)]
struct Block {
    at: u64,
    bytes: usize,
    crc32: u32,
    /// Whether its rows are of the oldest run.
    is_oldest: bool,
}

impl Scratch {
    pub fn new(space: &StateSpace, parts: usize) -> Result<Self, StateError> {
        let (file, place) = space.unnamed_file()?;
        Ok(Self { file, place, end: 0, blocks: vec![vec![]; parts] })
    }

    pub fn parts(&self) -> usize {
        self.blocks.len()
    }

    /// Takes a batch apart; `is_oldest`: one of the oldest run.
    pub fn add(&mut self, batch: &RecordBatch, is_oldest: bool) -> Result<(), CompactError> {
        for (part, rows) in parts_of(batch, self.parts())?.into_iter().enumerate() {
            if rows.num_rows() == 0 {
                continue;
            }
            let Encoded { bytes, crc32, .. } = part::encode_state(&rows)?;
            self.file.write_all_at(&bytes, self.end).map_err(|error| self.refused(error))?;
            self.blocks[part].push(Block { at: self.end, bytes: bytes.len(), crc32, is_oldest });
            self.end += bytes.len() as u64;
        }
        Ok(())
    }

    /// The rows of a part, in the order in which they came, and whether they are of the oldest run.
    pub fn batches(&self, part: usize) -> impl Iterator<Item = Result<(RecordBatch, bool), CompactError>> {
        self.blocks[part]
            .iter()
            .map(move |block| self.read(*block).map(|batch| (batch, block.is_oldest)).map_err(CompactError::from))
    }

    fn read(&self, block: Block) -> Result<RecordBatch, StateError> {
        let mut bytes = vec![0; block.bytes];
        self.file.read_exact_at(&mut bytes, block.at).map_err(|error| self.refused(error))?;
        let read = part::decode(&self.place, &Bytes::from(bytes), block.crc32);
        let batch = read.ok().and_then(|sections| sections.state.into_iter().next());
        batch.ok_or_else(|| StateError::Spill(format!("{} does not give back what was written there", self.place)))
    }

    fn refused(&self, error: io::Error) -> StateError {
        unusable(&self.place, &error.into())
    }
}

#[cfg(test)]
mod tests {
    use polybolos_state::{JobState, Table, TableKind};

    use super::*;

    #[test]
    fn rows_come_back_by_part_and_what_the_disk_changed_is_refused() {
        let mut state = JobState::new(&[TableKind::Values.into()], 1);
        let Table::Values(table) = &mut state.lanes_mut()[0].tables[0] else { panic!("values") };
        (0..1_000_u32).for_each(|key| table.put(&key.to_le_bytes(), b"value", None));
        let changes = state.changes().expect("changes");
        let folder = tempfile::tempdir().expect("a folder");
        let mut scratch = Scratch::new(&StateSpace::new(0, folder.path().join("state")), 7).expect("opens");
        assert_eq!(std::fs::read_dir(folder.path().join("state")).expect("made").count(), 0, "it has no name");
        changes.iter().try_for_each(|batch| scratch.add(batch, false)).expect("adds");
        changes.iter().try_for_each(|batch| scratch.add(batch, true)).expect("adds again");
        let mut rows = 0;
        for part in 0..scratch.parts() {
            let expected = changes.iter().map(|batch| parts_of(batch, 7).expect("a run").swap_remove(part));
            let expected: Vec<RecordBatch> = expected.filter(|batch| batch.num_rows() > 0).collect();
            let read: Vec<(RecordBatch, bool)> = scratch.batches(part).collect::<Result<_, _>>().expect("reads");
            let (read, of_oldest): (Vec<RecordBatch>, Vec<bool>) = read.into_iter().unzip();
            assert_eq!(of_oldest, [vec![false; expected.len()], vec![true; expected.len()]].concat());
            assert_eq!(read, [expected.clone(), expected].concat());
            rows += read.iter().map(RecordBatch::num_rows).sum::<usize>();
        }
        assert_eq!(rows, 2_000);

        let changed = scratch.blocks[3][0];
        scratch.file.write_all_at(b"?", changed.at + 40).expect("writes");
        let error = scratch.batches(3).next().expect("a block").expect_err("changed");
        assert!(error.is_retryable() && error.to_string().contains("executor.work_dir"), "{error}");
    }
}
