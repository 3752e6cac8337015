//! What is held of one topic-partition, and where its consumer has to stand. Pure: no Kafka, no locks, no clock.
//!
//! Offsets have holes (control records of transactions, compaction). Records tell how far the log was read; where a range ends in a hole,
//! only the end-of-partition event does, and only one of a *placement* (an assignment of the partition at some offset) that was made after
//! the broker had said that its log reaches so far. An older event may speak of a shorter log.
//!
//! A log that is quiet and ends in a hole (each transaction ends in one) is looked at in the same way though nobody waits, so that reading
//! reaches its end.
use std::collections::VecDeque;

use polybolos_streaming::frame::OffsetRange;

use crate::records::RecordChunk;

/// Why a partition cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Records from `offset` on are gone; the broker keeps from the first to before the second.
    Lost {
        offset: i64,
        kept: Option<(i64, i64)>,
    },
    /// The broker refuses this offset again and again, and says that it keeps it.
    Refused(i64),
    NoSuchTopic,
    Denied(String),
    /// A record came after later ones: a bug of ours or of the client library.
    Disorder(i64),
}

impl Fault {
    /// Whether reading may go on by itself. Records before the first that is kept stay gone: the leader sees it and says where to
    /// go on. A log that ends below the offset may have grown past it before the leader looks.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoSuchTopic | Self::Denied(_) | Self::Refused(_) => true,
            Self::Lost { offset, kept } => kept.is_none_or(|(first, _)| first <= *offset),
            Self::Disorder(_) => false,
        }
    }
}

/// Placements that the broker refuses in a row, though it says that it keeps their offset, before that is a fault.
const REFUSALS: u32 = 3;

/// One assignment of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub number: u64,
    pub offset: i64,
    /// The broker's log reached this far before the placement was made.
    pub known_end: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// First offset that is still kept.
    start: i64,
    /// One past the last offset known to be here, or to be a hole.
    end: i64,
    chunks: VecDeque<RecordChunk>,
    bytes: usize,
    /// A reader waits for offsets below this.
    needed: i64,
    /// Readers waiting; while there are any, the buffer is not moved elsewhere.
    readers: usize,
    /// The placement that the thread has to make, then has made.
    wanted: Option<Placement>,
    placed: Option<Placement>,
    placements: u64,
    /// The last thing this placement brought was the end of the partition.
    at_end: bool,
    /// The broker's log was seen to reach no further than `end`, after all that came.
    end_is_known: bool,
    fault: Option<Fault>,
    /// Faults in a row, with nothing brought in between.
    failures: u32,
    /// Placements in a row that were refused without a reason, with nothing brought in between.
    refusals: u32,
    /// Where to begin once its readers are gone: they had to be waited for.
    later: Option<i64>,
}

impl Buffer {
    /// `number` is above every placement that this partition had before.
    pub fn at(offset: i64, number: u64) -> Self {
        let mut buffer = Self { placements: number, ..Self::default() };
        buffer.move_to(offset);
        buffer
    }

    /// Drops all and begins anew elsewhere.
    pub fn move_to(&mut self, offset: i64) {
        self.start = offset;
        self.end = offset;
        self.chunks.clear();
        self.bytes = 0;
        self.needed = i64::MIN;
        self.fault = None;
        self.failures = 0;
        self.refusals = 0;
        self.later = None;
        self.place(None);
    }

    /// Stays in fault; where it begins once that has passed.
    pub fn begin_later_at(&mut self, offset: i64) {
        let (fault, failures) = (self.fault.take(), self.failures);
        self.move_to(offset);
        (self.fault, self.failures) = (fault, failures);
    }

    /// After a fault: from the offset that was asked for, and with nothing of what came before it.
    pub fn begin_again(&mut self) {
        let failures = self.failures;
        self.move_to(self.start);
        self.failures = failures;
    }

    /// The client that made the placement is no more: the next one goes on. What is in fault stays so.
    pub fn place_again(&mut self) {
        if self.fault.is_none() {
            self.place(None);
        }
    }

    fn place(&mut self, known_end: Option<i64>) {
        self.placements += 1;
        self.at_end = false;
        self.end_is_known = false;
        self.wanted = Some(Placement { number: self.placements, offset: self.end, known_end });
    }

    /// Whether reading on from `offset` needs no other place.
    pub fn covers(&self, offset: i64) -> bool {
        self.fault.is_none() && (self.start..=self.end).contains(&offset)
    }

    /// Where reading began, or what was released last.
    pub fn start(&self) -> i64 {
        self.start
    }

    pub fn end(&self) -> i64 {
        self.end
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    pub fn fail(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.failures = self.failures.saturating_add(1);
    }

    /// The broker refused the offset that comes next, and says that it keeps it; answers whether it did so too often.
    pub fn refuse(&mut self) -> bool {
        self.refusals += 1;
        self.refusals > REFUSALS
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn later(&mut self) -> &mut Option<i64> {
        &mut self.later
    }

    pub fn readers(&mut self) -> &mut usize {
        &mut self.readers
    }

    /// A reader waits for everything below `end`.
    pub fn need(&mut self, end: i64) {
        self.needed = self.needed.max(end);
    }

    /// The records of a range, once all of it is here.
    pub fn get(&self, range: OffsetRange) -> Option<Vec<RecordChunk>> {
        if !self.covers(range.start) || self.end < range.end {
            return None;
        }
        let first = self.chunks.partition_point(|chunk| chunk.offsets().is_none_or(|offsets| offsets.end <= range.start));
        let chunks = self.chunks.iter().skip(first);
        let chunks = chunks.take_while(|chunk| chunk.offsets().is_some_and(|offsets| offsets.start < range.end));
        Some(chunks.map(|chunk| chunk.slice(range)).filter(|chunk| !chunk.is_empty()).collect())
    }

    /// Nobody will ask for offsets below `through` again.
    pub fn release(&mut self, through: i64) {
        self.start = self.start.max(through.min(self.end));
        while let Some(first) = self.chunks.front() {
            if first.offsets().is_some_and(|offsets| offsets.end > self.start) {
                break;
            }
            self.bytes -= first.footprint();
            self.chunks.pop_front();
        }
    }

    /// Whether more shall be taken in: there is room, or somebody waits for it.
    pub fn has_room(&self, limit: usize) -> bool {
        self.fault.is_none() && (self.bytes < limit || self.end < self.needed)
    }

    pub fn wants_placement(&self) -> bool {
        self.fault.is_none() && self.wanted.is_some()
    }

    /// The placement to make now, if another than the present one is wanted.
    pub fn next_placement(&mut self) -> Option<Placement> {
        if self.fault.is_some() {
            return None;
        }
        let wanted = self.wanted.take()?;
        self.placed = Some(wanted);
        Some(wanted)
    }

    pub fn is_placed(&self, number: u64) -> bool {
        self.wanted.is_none() && self.fault.is_none() && self.placed.is_some_and(|placed| placed.number == number)
    }

    /// A reader waits for offsets past the last record, and the consumer saw the end of the partition: up to where the log has to reach
    /// for that to be a hole.
    pub fn open_question(&self) -> Option<i64> {
        let waits = self.fault.is_none() && self.wanted.is_none() && self.at_end && self.end < self.needed;
        waits.then_some(self.needed)
    }

    /// The broker's log reaches `log_end`. If that answers the question, a new placement will tell whether there are records.
    pub fn log_reaches(&mut self, log_end: i64) {
        if self.open_question().is_some_and(|needed| needed <= log_end) {
            self.place(Some(self.needed));
        }
    }

    /// The consumer saw the end of the partition, and whether that is the log's end or a hole before it is not known.
    pub fn may_end_in_hole(&self) -> bool {
        self.fault.is_none() && self.wanted.is_none() && self.at_end && !self.end_is_known && self.readers == 0
    }

    /// The broker's log reaches `log_end`, said while the partition was quiet.
    pub fn quiet_log_reaches(&mut self, log_end: i64) {
        if !self.may_end_in_hole() {
            return;
        }
        if log_end > self.end {
            self.place(Some(log_end));
        } else {
            self.end_is_known = true;
        }
    }

    /// Takes in what a placement brought, and says how many records and bytes were new.
    pub fn add(&mut self, placement: u64, chunk: &RecordChunk) -> (u64, u64) {
        if !self.is_placed(placement) {
            return (0, 0);
        }
        let Some(offsets) = chunk.offsets() else { return (0, 0) };
        if (self.start..self.end).contains(&offsets.start) && !self.holds(offsets.start) {
            self.fault = Some(Fault::Disorder(offsets.start));
            return (0, 0);
        }
        let chunk = chunk.slice(OffsetRange::new(self.end, offsets.end.max(self.end)));
        if chunk.is_empty() {
            return (0, 0);
        }
        self.at_end = false;
        self.end_is_known = false;
        (self.failures, self.refusals) = (0, 0);
        self.end = offsets.end;
        self.bytes += chunk.footprint();
        let added = (chunk.len() as u64, chunk.bytes() as u64);
        self.chunks.push_back(chunk);
        added
    }

    fn holds(&self, offset: i64) -> bool {
        self.chunks.iter().any(|chunk| !chunk.slice(OffsetRange::new(offset, offset + 1)).is_empty())
    }

    /// The consumer saw the end of the partition, behind all records that it brought before.
    pub fn reached_end(&mut self, placement: u64) {
        if !self.is_placed(placement) {
            return;
        }
        self.at_end = true;
        (self.failures, self.refusals) = (0, 0);
        // The log may have grown by a hole: where the event comes again though nothing else came, and also while a placement was being made, whose event then
        // speaks of more than what was known before.
        self.end_is_known = false;
        let known_end = self.placed.as_mut().and_then(|placed| placed.known_end.take());
        self.end = self.end.max(known_end.unwrap_or(i64::MIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{ChunkBuilder, RawRecord};

    fn chunk(offsets: impl IntoIterator<Item = i64>) -> RecordChunk {
        let mut builder = ChunkBuilder::new();
        for offset in offsets {
            builder.push(RawRecord { offset, timestamp: None, key: None, payload: Some(b"0123456789") }, std::iter::empty());
        }
        builder.finish()
    }

    fn placed(offset: i64) -> (Buffer, u64) {
        let mut buffer = Buffer::at(offset, 0);
        let placement = buffer.next_placement().unwrap();
        assert_eq!((placement.offset, placement.known_end), (offset, None));
        (buffer, placement.number)
    }

    fn offsets(chunks: &[RecordChunk]) -> Vec<i64> {
        chunks.iter().flat_map(|chunk| (0..chunk.len()).map(|record| chunk.offset(record))).collect()
    }

    #[test]
    fn ranges_come_when_all_of_them_is_here() {
        let (mut buffer, place) = placed(5);
        buffer.add(place, &chunk(5..8));
        assert!(buffer.get(OffsetRange::new(5, 9)).is_none());
        buffer.add(place, &chunk([9, 11]));
        assert_eq!(offsets(&buffer.get(OffsetRange::new(6, 10)).unwrap()), [6, 7, 9]);
        assert_eq!(offsets(&buffer.get(OffsetRange::new(8, 9)).unwrap()), [0i64; 0]);
        assert!(buffer.get(OffsetRange::new(4, 6)).is_none());
        assert_eq!(buffer.end(), 12);
    }

    #[test]
    fn released_chunks_give_their_bytes_back() {
        let (mut buffer, place) = placed(0);
        buffer.add(place, &chunk(0..10));
        buffer.add(place, &chunk(10..20));
        let both = buffer.bytes();
        assert!(!buffer.has_room(both));
        buffer.release(9);
        assert_eq!(buffer.bytes(), both, "the first chunk still has record 9");
        buffer.release(10);
        assert_eq!(buffer.bytes(), both / 2);
        assert!(buffer.has_room(both));
        buffer.release(100);
        assert_eq!((buffer.bytes(), buffer.end()), (0, 20));
        assert!(buffer.covers(20) && !buffer.covers(19));
    }

    #[test]
    fn a_waiting_reader_gets_room() {
        let (mut buffer, place) = placed(0);
        buffer.add(place, &chunk(0..10));
        assert!(!buffer.has_room(1));
        buffer.need(11);
        assert!(buffer.has_room(1));
        buffer.add(place, &chunk([10]));
        assert!(!buffer.has_room(1));
    }

    #[test]
    fn an_end_seen_before_the_question_proves_nothing() {
        let (mut buffer, place) = placed(0);
        buffer.add(place, &chunk(0..3));
        buffer.reached_end(place);
        assert_eq!(buffer.open_question(), None, "nobody waits");
        buffer.need(5);
        buffer.reached_end(place);
        assert_eq!(buffer.end(), 3, "records 3 and 4 may still be on their way");
        assert_eq!(buffer.open_question(), Some(5));
        buffer.log_reaches(4);
        assert_eq!(buffer.open_question(), Some(5), "the log is too short");
        buffer.log_reaches(5);
        let again = buffer.next_placement().unwrap();
        assert_eq!((again.offset, again.known_end), (3, Some(5)));
        buffer.reached_end(place);
        assert_eq!(buffer.end(), 3, "an event of the old placement");
        buffer.reached_end(again.number);
        assert_eq!(buffer.end(), 5);
        assert_eq!(buffer.get(OffsetRange::new(0, 5)).unwrap().len(), 1);
    }

    #[test]
    fn a_quiet_log_is_read_to_its_end_over_a_hole() {
        let (mut buffer, place) = placed(0);
        assert!(!buffer.may_end_in_hole(), "no end was seen");
        buffer.add(place, &chunk(0..3));
        buffer.reached_end(place);
        assert!(buffer.may_end_in_hole());
        buffer.quiet_log_reaches(3);
        assert!(!buffer.may_end_in_hole(), "it ends in a record");
        buffer.add(place, &chunk([3]));
        buffer.reached_end(place);
        buffer.quiet_log_reaches(5);
        assert_eq!(buffer.end(), 4, "records may be on their way");
        let again = buffer.next_placement().unwrap();
        assert_eq!((again.offset, again.known_end), (4, Some(5)));
        buffer.reached_end(again.number);
        assert_eq!(buffer.end(), 5);
        assert!(buffer.may_end_in_hole(), "the event may already speak of a longer log");
        buffer.quiet_log_reaches(5);
        assert!(!buffer.may_end_in_hole());
        buffer.reached_end(again.number);
        assert!(buffer.may_end_in_hole(), "records that nobody sees were aborted meanwhile");
        *buffer.readers() = 1;
        buffer.add(again.number, &chunk([6]));
        buffer.reached_end(again.number);
        assert!(!buffer.may_end_in_hole(), "a reader's questions come first");
    }

    #[test]
    fn what_an_old_placement_brings_is_dropped() {
        let (mut buffer, place) = placed(100);
        buffer.move_to(50);
        assert_eq!(buffer.add(place, &chunk([100])), (0, 0));
        let again = buffer.next_placement().unwrap().number;
        assert_eq!(buffer.add(place, &chunk([100])), (0, 0));
        assert_eq!(buffer.add(again, &chunk([50, 51])).0, 2);
        assert_eq!(buffer.end(), 52);
    }

    #[test]
    fn after_a_fault_all_begins_again_where_it_was_asked_for() {
        let (mut buffer, place) = placed(5);
        buffer.add(place, &chunk(5..9));
        buffer.release(7);
        for failures in 1..3 {
            buffer.fail(Fault::NoSuchTopic);
            assert_eq!(buffer.failures(), failures);
            buffer.begin_again();
            let again = buffer.next_placement().unwrap();
            assert_eq!((again.offset, buffer.bytes()), (7, 0));
            assert_eq!(buffer.add(place, &chunk([9])), (0, 0), "of before the fault");
        }
        let again = buffer.placed.unwrap().number;
        assert_eq!(buffer.add(again, &chunk([7, 8])).0, 2);
        assert_eq!(buffer.failures(), 0);
    }

    #[test]
    fn an_offset_that_is_kept_and_refused_is_a_fault_after_some_placements() {
        let (mut buffer, place) = placed(5);
        for _ in 0..2 {
            assert!((0..REFUSALS).all(|_| !buffer.refuse()));
            assert!(buffer.refuse());
            buffer.begin_again();
        }
        let place = buffer.next_placement().map_or(place, |placement| placement.number);
        assert!((0..REFUSALS).all(|_| !buffer.refuse()));
        buffer.add(place, &chunk([5]));
        assert!(!buffer.refuse(), "it was read in between");
    }

    #[test]
    fn a_log_that_ends_below_an_offset_may_grow_past_it_and_what_retention_took_stays_gone() {
        let lost = |kept| Fault::Lost { offset: 7, kept };
        assert!(lost(None).may_pass() && lost(Some((0, 5))).may_pass());
        assert!(!lost(Some((8, 9))).may_pass());
    }

    #[test]
    fn records_seen_twice_are_taken_once_and_late_ones_are_a_fault() {
        let (mut buffer, place) = placed(0);
        buffer.add(place, &chunk([0, 1, 5]));
        assert_eq!(buffer.add(place, &chunk([1, 5, 6])).0, 1);
        assert_eq!(offsets(&buffer.get(OffsetRange::new(0, 7)).unwrap()), [0, 1, 5, 6]);
        buffer.add(place, &chunk([3]));
        assert_eq!(buffer.fault(), Some(&Fault::Disorder(3)));
        assert!(!buffer.covers(0));
    }
}
