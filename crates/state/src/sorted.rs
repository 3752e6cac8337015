//! A small ordered map from rows of bytes: most keys have few rows, and a list of those takes a fraction of a tree's memory.
use std::{collections::BTreeMap, ops::Bound};

type Bytes = Box<[u8]>;

/// Up to this many rows are a sorted list.
const SMALL_ROWS: usize = 24;

#[derive(Debug)]
pub(crate) enum Sorted<T> {
    Small(Vec<(Bytes, T)>),
    Large(BTreeMap<Bytes, T>),
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self::Small(Vec::new())
    }
}

impl<T> Sorted<T> {
    pub fn of(row: Bytes, value: T) -> Self {
        Self::Small(vec![(row, value)])
    }

    pub fn get(&self, row: &[u8]) -> Option<&T> {
        match self {
            Self::Small(rows) => place(rows, row).ok().map(|at| &rows[at].1),
            Self::Large(rows) => rows.get(row),
        }
    }

    pub fn get_mut(&mut self, row: &[u8]) -> Option<&mut T> {
        match self {
            Self::Small(rows) => place(rows, row).ok().map(|at| &mut rows[at].1),
            Self::Large(rows) => rows.get_mut(row),
        }
    }

    /// The value that was there.
    pub fn insert(&mut self, row: Bytes, value: T) -> Option<T> {
        match self {
            Self::Small(rows) => match place(rows, &row) {
                Ok(at) => Some(std::mem::replace(&mut rows[at].1, value)),
                Err(at) if rows.len() < SMALL_ROWS => {
                    rows.insert(at, (row, value));
                    None
                }
                Err(_) => {
                    let mut large: BTreeMap<Bytes, T> = std::mem::take(rows).into_iter().collect();
                    large.insert(row, value);
                    *self = Self::Large(large);
                    None
                }
            },
            Self::Large(rows) => rows.insert(row, value),
        }
    }

    pub fn remove(&mut self, row: &[u8]) -> Option<T> {
        match self {
            Self::Small(rows) => place(rows, row).ok().map(|at| rows.remove(at).1),
            Self::Large(rows) => rows.remove(row),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Small(rows) => rows.len(),
            Self::Large(rows) => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> Rows<'_, T> {
        self.between(&[], None)
    }

    /// Those from `low` on that come before `end`.
    pub fn between(&self, low: &[u8], end: Option<&[u8]>) -> Rows<'_, T> {
        match self {
            Self::Small(rows) => {
                let before = |row: &[u8]| rows.partition_point(|(known, _)| known.as_ref() < row);
                let (from, to) = (before(low), end.map_or(rows.len(), before));
                Rows::Small(rows[from..to.max(from)].iter())
            }
            Self::Large(rows) => {
                let end = end.map_or(Bound::Unbounded, |end| Bound::Excluded(end.max(low)));
                Rows::Large(rows.range::<[u8], _>((Bound::Included(low), end)))
            }
        }
    }
}

#[inline]
fn place<T>(rows: &[(Bytes, T)], row: &[u8]) -> Result<usize, usize> {
    rows.binary_search_by(|(known, _)| known.as_ref().cmp(row))
}

impl<T> IntoIterator for Sorted<T> {
    type Item = (Bytes, T);
    type IntoIter = IntoRows<T>;

    fn into_iter(self) -> IntoRows<T> {
        match self {
            Self::Small(rows) => IntoRows::Small(rows.into_iter()),
            Self::Large(rows) => IntoRows::Large(rows.into_iter()),
        }
    }
}

pub(crate) enum Rows<'a, T> {
    Small(std::slice::Iter<'a, (Bytes, T)>),
    Large(std::collections::btree_map::Range<'a, Bytes, T>),
}

impl<'a, T> Iterator for Rows<'a, T> {
    type Item = (&'a Bytes, &'a T);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Small(rows) => rows.next().map(|(row, value)| (row, value)),
            Self::Large(rows) => rows.next(),
        }
    }
}

impl<T> DoubleEndedIterator for Rows<'_, T> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            Self::Small(rows) => rows.next_back().map(|(row, value)| (row, value)),
            Self::Large(rows) => rows.next_back(),
        }
    }
}

pub(crate) enum IntoRows<T> {
    Small(std::vec::IntoIter<(Bytes, T)>),
    Large(std::collections::btree_map::IntoIter<Bytes, T>),
}

impl<T> Iterator for IntoRows<T> {
    type Item = (Bytes, T);

    fn next(&mut self) -> Option<(Bytes, T)> {
        match self {
            Self::Small(rows) => rows.next(),
            Self::Large(rows) => rows.next(),
        }
    }
}
