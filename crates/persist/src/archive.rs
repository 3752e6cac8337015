//! Several objects in one file, to carry them to another store: a magic line, then per entry its name, length, bytes and checksum, then the checksum of all of it. Made and
//! read piece by piece, an entry at a time in memory.
use bytes::{Buf, Bytes, BytesMut};

use crate::StoreError;

const MAGIC: &[u8] = b"polybolos-archive 1\n";

/// Stands where the next entry's name would have its length.
const END: u32 = u32::MAX;

/// Names are keys of a store.
const MAX_NAME_BYTES: u32 = 4_096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub bytes: Bytes,
    /// Of the bytes, as it was when they were written.
    pub crc32: u32,
}

/// Writes an archive, piece after piece.
#[derive(Debug)]
pub struct Writer {
    hasher: crc32fast::Hasher,
    begun: bool,
}

impl Default for Writer {
    fn default() -> Self {
        Self { hasher: crc32fast::Hasher::new(), begun: false }
    }
}

impl Writer {
    /// The next piece of the file.
    pub fn entry(&mut self, name: &str, bytes: &[u8]) -> Bytes {
        let mut piece = self.begin();
        piece.extend_from_slice(&(name.len() as u32).to_le_bytes());
        piece.extend_from_slice(name.as_bytes());
        piece.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        piece.extend_from_slice(bytes);
        piece.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        self.hasher.update(&piece);
        piece.freeze()
    }

    /// The last piece.
    pub fn end(mut self) -> Bytes {
        let mut piece = self.begin();
        piece.extend_from_slice(&END.to_le_bytes());
        self.hasher.update(&piece);
        piece.extend_from_slice(&self.hasher.finalize().to_le_bytes());
        piece.freeze()
    }

    fn begin(&mut self) -> BytesMut {
        let magic: &[u8] = if self.begun { &[] } else { MAGIC };
        self.begun = true;
        BytesMut::from(magic)
    }
}

/// Reads an archive from pieces of any size.
#[derive(Debug)]
pub struct Reader {
    object: String,
    pending: BytesMut,
    hasher: crc32fast::Hasher,
    begun: bool,
    ended: bool,
}

impl Reader {
    /// `object` names the file, for messages.
    pub fn new(object: &str) -> Self {
        Self { object: object.to_owned(), pending: BytesMut::new(), hasher: crc32fast::Hasher::new(), begun: false, ended: false }
    }

    pub fn push(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
    }

    /// The next entry, when all of it is there.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, StoreError> {
        if !self.begun {
            if self.pending.len() < MAGIC.len() {
                return Ok(None);
            }
            if !self.pending.starts_with(MAGIC) {
                return Err(self.corrupt("it does not begin as an archive"));
            }
            self.take(MAGIC.len());
            self.begun = true;
        }
        if self.ended {
            return if self.pending.is_empty() { Ok(None) } else { Err(self.corrupt("something follows its end")) };
        }
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let Some(head) = self.pending.get(..4) else { return Ok(None) };
        let name_bytes = number(head) as u32;
        if name_bytes == END {
            let Some(sum) = self.pending.get(4..8) else { return Ok(None) };
            let sum = number(sum) as u32;
            self.take(4);
            if std::mem::take(&mut self.hasher).finalize() != sum {
                return Err(self.corrupt("its checksum does not fit"));
            }
            self.pending.advance(4);
            self.ended = true;
            return self.next_entry();
        }
        if name_bytes > MAX_NAME_BYTES {
            return Err(self.corrupt("a name in it is too long"));
        }
        let name_end = 4 + name_bytes as usize;
        let Some(length) = self.pending.get(name_end..name_end + 8) else { return Ok(None) };
        let Ok(length) = usize::try_from(number(length)) else { return Err(self.corrupt("an entry is too long")) };
        let begin = name_end + 8;
        let Some(end) = begin.checked_add(length).filter(|end| end.checked_add(4).is_some()) else {
            return Err(self.corrupt("an entry is too long"));
        };
        let Some(sum) = self.pending.get(end..end + 4) else { return Ok(None) };
        let sum = number(sum) as u32;
        let whole = self.take(end + 4);
        let name = String::from_utf8(whole[4..name_end].to_vec()).map_err(|_| self.corrupt("a name in it is not text"))?;
        let bytes = whole.slice(begin..end);
        if crc32fast::hash(&bytes) != sum {
            return Err(self.corrupt(&format!("the checksum of {name} does not fit")));
        }
        Ok(Some(Entry { name, bytes, crc32: sum }))
    }

    /// Nothing more comes.
    pub fn finish(self) -> Result<(), StoreError> {
        if self.ended { Ok(()) } else { Err(self.corrupt("it is cut short")) }
    }

    fn take(&mut self, count: usize) -> Bytes {
        let taken = self.pending.split_to(count).freeze();
        self.hasher.update(&taken);
        taken
    }

    fn corrupt(&self, message: &str) -> StoreError {
        StoreError::Corrupt { object: self.object.clone(), message: message.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut writer = Writer::default();
        let mut bytes = writer.entry("savepoint", b"{}\n").to_vec();
        bytes.extend_from_slice(&writer.entry("jobs/a/parts/1", &[7; 1_000]));
        bytes.extend_from_slice(&writer.entry("empty", b""));
        bytes.extend_from_slice(&writer.end());
        bytes
    }

    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Entry>, StoreError> {
        let mut reader = Reader::new("file");
        let mut entries = vec![];
        for piece in bytes.chunks(piece) {
            reader.push(piece);
            while let Some(entry) = reader.next_entry()? {
                entries.push(entry);
            }
        }
        reader.finish().map(|()| entries)
    }

    #[test]
    fn what_is_written_is_read_in_pieces_of_any_size() {
        let names = ["savepoint", "jobs/a/parts/1", "empty"];
        for piece in [1, 3, 7, 100, 10_000] {
            let entries = read(&archive(), piece).expect("reads");
            assert_eq!(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), names);
            assert_eq!(entries[1].bytes, vec![7; 1_000]);
        }
        assert_eq!(read(&Writer::default().end(), 5).expect("reads"), []);
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_found() {
        let whole = archive();
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 0x41;
            assert!(read(&damaged, 64).is_err(), "byte {index}");
            assert!(read(&whole[..index], 64).is_err(), "cut at {index}");
        }
        let mut longer = whole;
        longer.push(0);
        assert!(read(&longer, 64).is_err());
    }
}
