//! Which rows are NULL. Costs one counter until the first NULL arrives.
use arrow::array::BooleanBufferBuilder;
use arrow::buffer::NullBuffer;

#[derive(Default)]
pub(super) struct Validity {
    rows: usize,
    bits: Option<BooleanBufferBuilder>,
}

impl Validity {
    #[inline(always)]
    pub fn push_valid(&mut self) {
        self.rows += 1;
        if let Some(bits) = &mut self.bits {
            bits.append(true);
        }
    }

    #[inline(always)]
    pub fn push_null(&mut self) {
        if self.bits.is_none() {
            self.materialise();
        }
        self.rows += 1;
        if let Some(bits) = &mut self.bits {
            bits.append(false);
        }
    }

    #[cold]
    fn materialise(&mut self) {
        let mut bits = BooleanBufferBuilder::new((self.rows + 1).max(1024));
        bits.append_n(self.rows, true);
        self.bits = Some(bits);
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        if let Some(bits) = &mut self.bits {
            bits.truncate(self.rows);
        }
    }

    /// `None` when no row is NULL.
    pub fn finish(&mut self) -> Option<NullBuffer> {
        self.rows = 0;
        let nulls = NullBuffer::new(self.bits.take()?.finish());
        (nulls.null_count() > 0).then_some(nulls)
    }
}
