//! Objects, lists and maps. An object column remembers in which order the last record named its keys, so that a key is usually found by
//! one comparison.
use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, MapArray, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, FieldRef, Fields};

use super::DecodeOptions;
use super::column::{Column, column_for};
use super::fault::{Fault, Outcome};
use super::scan::Scanner;
use super::text::TextColumn;
use super::validity::Validity;
use super::values::refuse;

struct Slot {
    name: String,
    nullable: bool,
    column: Box<dyn Column>,
    /// Values in `column`; one more than the rows of the struct once the running record has given its own.
    rows: usize,
}

/// The key that stood at some place in the record before, and whose slot it is.
#[derive(Default)]
struct Hint {
    key: Vec<u8>,
    slot: Option<usize>,
}

/// Longer keys and wider objects than these are looked up each time.
const MAX_HINT_KEY_BYTES: usize = 128;
const MAX_HINTS: usize = 256;

pub(super) struct StructColumn {
    fields: Fields,
    slots: Vec<Slot>,
    validity: Validity,
    hints: Vec<Hint>,
    fail_on_missing: bool,
}

impl StructColumn {
    pub fn new(fields: Fields, options: &DecodeOptions) -> Option<Self> {
        let slots = fields.iter().map(|field| {
            let column = column_for(field.data_type(), options)?;
            Some(Slot { name: field.name().clone(), nullable: field.is_nullable(), column, rows: 0 })
        });
        let slots = slots.collect::<Option<Vec<_>>>()?;
        Some(Self {
            fields,
            slots,
            validity: Validity::default(),
            hints: Vec::new(),
            fail_on_missing: options.fail_on_missing_field,
        })
    }

    /// The fields' arrays, all of them as long as rows were read.
    pub fn finish_fields(&mut self) -> Vec<ArrayRef> {
        self.validity.finish();
        self.slots.iter_mut().map(finish_slot).collect()
    }

    /// Reads `"key":` and answers whose it is. `place` counts the keys of this object.
    #[inline]
    fn key(&mut self, scanner: &mut Scanner<'_>, place: usize) -> Outcome<Option<usize>> {
        scanner.expect(b'"', "a key in quotes")?;
        let slot = match self.hints.get(place) {
            Some(hint) if scanner.pass_key(&hint.key) => hint.slot,
            _ => self.find_key(scanner, place)?,
        };
        scanner.expect(b':', "':'")?;
        Ok(slot)
    }

    fn find_key(&mut self, scanner: &mut Scanner<'_>, place: usize) -> Outcome<Option<usize>> {
        let span = scanner.string()?;
        if span.escaped {
            let mut key = Vec::new();
            scanner.append_string(span, &mut key);
            return Ok(self.slot_of(&key));
        }
        let key = scanner.raw(span);
        let slot = self.slot_of(key);
        if key.len() <= MAX_HINT_KEY_BYTES && place < MAX_HINTS {
            if self.hints.len() <= place {
                self.hints.resize_with(place + 1, Hint::default);
            }
            let hint = &mut self.hints[place];
            hint.key.clear();
            hint.key.extend_from_slice(key);
            hint.slot = slot;
        }
        Ok(slot)
    }

    fn slot_of(&self, key: &[u8]) -> Option<usize> {
        self.slots.iter().position(|slot| slot.name.as_bytes() == key)
    }

    /// Gives the slot its value of the running row; of a key named twice the last value counts.
    #[inline]
    fn read_member(&mut self, index: usize, row: usize, scanner: &mut Scanner<'_>) -> Outcome<bool> {
        let slot = &mut self.slots[index];
        let first = slot.rows == row;
        if !first {
            slot.column.truncate(row);
            slot.rows = row;
        }
        if scanner.token() == Some(b'n') {
            scanner.literal("null")?;
            if !slot.nullable {
                return Err(Fault::value("null in a NOT NULL column".into()).within(&slot.name));
            }
            slot.column.append_null();
        } else {
            slot.column.read(scanner).map_err(|fault| fault.within(&slot.name))?;
        }
        slot.rows = row + 1;
        Ok(first)
    }

    fn fill_missing(&mut self, row: usize) -> Outcome {
        for slot in self.slots.iter_mut().filter(|slot| slot.rows == row) {
            if !slot.nullable {
                return Err(Fault::value("missing, and the column is NOT NULL".into()).within(&slot.name));
            }
            if self.fail_on_missing {
                return Err(Fault::value("missing, and 'json.fail-on-missing-field' is 'true'".into()).within(&slot.name));
            }
            slot.column.append_null();
            slot.rows += 1;
        }
        Ok(())
    }
}

fn finish_slot(slot: &mut Slot) -> ArrayRef {
    slot.rows = 0;
    slot.column.finish()
}

impl Column for StructColumn {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        if scanner.peek() != Some(b'{') {
            return refuse(scanner, "an object");
        }
        scanner.enter()?;
        scanner.advance();
        let row = self.validity.len();
        let mut given = 0;
        if scanner.token() == Some(b'}') {
            scanner.advance();
            scanner.leave();
        } else {
            let mut place = 0;
            loop {
                match self.key(scanner, place)? {
                    Some(slot) => given += usize::from(self.read_member(slot, row, scanner)?),
                    None => scanner.skip_value()?,
                }
                place += 1;
                if !scanner.another(b'}', "',' or '}'")? {
                    break;
                }
            }
        }
        if given < self.slots.len() {
            self.fill_missing(row)?;
        }
        self.validity.push_valid();
        Ok(())
    }

    fn append_null(&mut self) {
        for slot in &mut self.slots {
            slot.column.append_null();
            slot.rows += 1;
        }
        self.validity.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        for slot in &mut self.slots {
            slot.column.truncate(rows);
            slot.rows = slot.rows.min(rows);
        }
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let rows = self.validity.len();
        let arrays = self.slots.iter_mut().map(finish_slot).collect();
        let array = StructArray::try_new_with_length(self.fields.clone(), arrays, self.validity.finish(), rows);
        Arc::new(array.expect("every field has a value for every row"))
    }
}

pub(super) struct ListColumn {
    item: FieldRef,
    values: Box<dyn Column>,
    offsets: Vec<i32>,
    validity: Validity,
}

impl ListColumn {
    pub fn new(item: FieldRef, options: &DecodeOptions) -> Option<Self> {
        let values = column_for(item.data_type(), options)?;
        Some(Self { item, values, offsets: vec![0], validity: Validity::default() })
    }

    fn end(&self) -> i32 {
        self.offsets.last().copied().expect("offsets start with 0")
    }
}

impl Column for ListColumn {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        if scanner.peek() != Some(b'[') {
            return refuse(scanner, "a list");
        }
        scanner.enter()?;
        scanner.advance();
        let mut end = self.end();
        if scanner.token() == Some(b']') {
            scanner.advance();
            scanner.leave();
        } else {
            loop {
                if scanner.token() == Some(b'n') {
                    scanner.literal("null")?;
                    if !self.item.is_nullable() {
                        return Err(Fault::value("null in a list of NOT NULL elements".into()));
                    }
                    self.values.append_null();
                } else {
                    self.values.read(scanner)?;
                }
                end += 1;
                if !scanner.another(b']', "',' or ']'")? {
                    break;
                }
            }
        }
        self.offsets.push(end);
        self.validity.push_valid();
        Ok(())
    }

    fn append_null(&mut self) {
        self.offsets.push(self.end());
        self.validity.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        if rows + 1 < self.offsets.len() {
            self.offsets.truncate(rows + 1);
        }
        self.values.truncate(self.end() as usize);
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        let array = ListArray::try_new(self.item.clone(), offsets, self.values.finish(), self.validity.finish());
        Arc::new(array.expect("offsets end where the elements do"))
    }
}

/// JSON objects as `MAP<STRING, …>`. A key named twice is a fault: which value would count?
pub(super) struct MapColumn {
    entries: FieldRef,
    fields: Fields,
    keys: TextColumn,
    values: Box<dyn Column>,
    offsets: Vec<i32>,
    validity: Validity,
}

impl MapColumn {
    pub fn new(entries: FieldRef, options: &DecodeOptions) -> Option<Self> {
        let DataType::Struct(fields) = entries.data_type() else { return None };
        let [key, value] = fields.as_ref() else { return None };
        let (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) = key.data_type() else { return None };
        let keys = TextColumn::new(key.data_type().clone(), false);
        let values = column_for(value.data_type(), options)?;
        let fields = fields.clone();
        Some(Self { entries, fields, keys, values, offsets: vec![0], validity: Validity::default() })
    }

    fn end(&self) -> i32 {
        self.offsets.last().copied().expect("offsets start with 0")
    }

    fn check_keys(&self, start: i32, end: i32) -> Outcome {
        let mut seen = HashSet::with_capacity((end - start) as usize);
        for row in start..end {
            let key = self.keys.value(row as usize);
            if !seen.insert(key) {
                return Err(Fault::value(format!("key {:?} is named twice in a map", String::from_utf8_lossy(key))));
            }
        }
        Ok(())
    }
}

impl Column for MapColumn {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        if scanner.peek() != Some(b'{') {
            return refuse(scanner, "an object");
        }
        scanner.enter()?;
        scanner.advance();
        let start = self.end();
        let mut end = start;
        if scanner.token() == Some(b'}') {
            scanner.advance();
            scanner.leave();
        } else {
            loop {
                scanner.expect(b'"', "a key in quotes")?;
                self.keys.read_string(scanner)?;
                scanner.expect(b':', "':'")?;
                if scanner.token() == Some(b'n') {
                    scanner.literal("null")?;
                    if !self.fields[1].is_nullable() {
                        return Err(Fault::value("null in a map of NOT NULL values".into()));
                    }
                    self.values.append_null();
                } else {
                    self.values.read(scanner)?;
                }
                end += 1;
                if !scanner.another(b'}', "',' or '}'")? {
                    break;
                }
            }
        }
        if end - start > 1 {
            self.check_keys(start, end)?;
        }
        self.offsets.push(end);
        self.validity.push_valid();
        Ok(())
    }

    fn append_null(&mut self) {
        self.offsets.push(self.end());
        self.validity.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        if rows + 1 < self.offsets.len() {
            self.offsets.truncate(rows + 1);
        }
        let end = self.end() as usize;
        self.keys.truncate(end);
        self.values.truncate(end);
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        let columns = vec![self.keys.finish(), self.values.finish()];
        let entries = StructArray::try_new(self.fields.clone(), columns, None).expect("as many keys as values");
        let array = MapArray::try_new(self.entries.clone(), offsets, entries, self.validity.finish(), false);
        Arc::new(array.expect("offsets end where the entries do"))
    }
}
