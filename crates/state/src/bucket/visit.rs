//! The rows of a key in order, forwards and backwards: what is recorded and not hidden, with the changes of the running task over it.
use super::{BucketTable, Change, Entry};
use crate::sorted::Rows;

impl BucketTable {
    /// The rows of a key in order, as long as `visit` answers true.
    pub fn visit(&self, key: &[u8], visit: impl FnMut(&[u8], Entry) -> bool) {
        self.visit_between(key, &[], None, visit);
    }

    /// The same of the rows from `low` on that come before `end`.
    pub fn visit_between(&self, key: &[u8], low: &[u8], end: Option<&[u8]>, mut visit: impl FnMut(&[u8], Entry) -> bool) {
        let base = self.shown(key, low, end);
        let changes = if self.overlay.is_empty() { None } else { self.overlay.get(key) };
        match (base, changes) {
            (None, None) => {}
            (Some(mut base), None) => {
                base.all(|(row, entry)| visit(row, entry));
            }
            (base, Some(changes)) => visit_merged(base, changes.between(low, end), false, &mut visit),
        }
    }

    /// The same from the last row to the first.
    pub fn visit_backwards(&self, key: &[u8], mut visit: impl FnMut(&[u8], Entry) -> bool) {
        let base = self.shown(key, &[], None);
        let changes = if self.overlay.is_empty() { None } else { self.overlay.get(key) };
        match (base, changes) {
            (None, None) => {}
            (Some(base), None) => {
                base.rev().all(|(row, entry)| visit(row, entry));
            }
            (base, Some(changes)) => visit_merged(base, changes.iter(), true, &mut visit),
        }
    }

    /// The recorded rows of a key from `low` on and before `end` that are not hidden, in order.
    fn shown(&self, key: &[u8], low: &[u8], end: Option<&[u8]>) -> Option<impl DoubleEndedIterator<Item = (&[u8], Entry)>> {
        let rows = self.base.get(key)?.rows.between(low, end).filter(|(_, held)| !self.endings.expiry.hides(held.expiry));
        Some(rows.map(|(row, held)| (row.as_ref(), held.entry)))
    }
}

/// Base and changes as one ordered list.
fn visit_merged<'a>(
    base: Option<impl DoubleEndedIterator<Item = (&'a [u8], Entry)>>,
    changes: Rows<'a, Change>,
    backwards: bool,
    visit: &mut impl FnMut(&[u8], Entry) -> bool,
) {
    let base = base.into_iter().flatten();
    let changes = changes.map(|(row, change)| (row.as_ref(), change.entry));
    if backwards {
        merge(base.rev(), changes.rev(), |left, right| left > right, visit);
    } else {
        merge(base, changes, |left, right| left < right, visit);
    }
}

fn merge<'a>(
    base: impl Iterator<Item = (&'a [u8], Entry)>,
    changes: impl Iterator<Item = (&'a [u8], Option<Entry>)>,
    comes_first: impl Fn(&[u8], &[u8]) -> bool,
    visit: &mut impl FnMut(&[u8], Entry) -> bool,
) {
    let (mut base, mut changes) = (base.peekable(), changes.peekable());
    loop {
        let go_on = match (base.peek(), changes.peek()) {
            (None, None) => return,
            (Some(&(row, entry)), change) if change.is_none_or(|(changed, _)| comes_first(row, changed)) => {
                base.next();
                visit(row, entry)
            }
            (known, Some(&(row, entry))) => {
                if known.is_some_and(|(known, _)| *known == row) {
                    base.next();
                }
                changes.next();
                entry.is_none_or(|entry| visit(row, entry))
            }
            (Some(_), None) => return,
        };
        if !go_on {
            return;
        }
    }
}
