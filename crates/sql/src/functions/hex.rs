//! `hex(value)`, `unhex(text)` and `bin(number)`, as Flink and Spark have them.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{AsArray, BinaryArray, StringArray},
        datatypes::{DataType, Int64Type},
    },
    common::{Result, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::text::is_text;

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// `hex(value)`: of a text its bytes, of a whole number its digits without zeros in front; a negative one has 64 bits.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Hex {
    signature: Signature,
}

impl Hex {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

pub(super) fn digits_of(bytes: &[u8]) -> String {
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves.map(|half| char::from(DIGITS[usize::from(half)])).collect()
}

impl ScalarUDFImpl for Hex {
    fn name(&self) -> &str {
        "hex"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [text] if is_text(text) => Ok(vec![DataType::Utf8]),
            [number] if number.is_integer() => Ok(vec![DataType::Int64]),
            [DataType::Binary | DataType::LargeBinary | DataType::BinaryView] => Ok(vec![DataType::Binary]),
            _ => plan_err!("hex takes a text, bytes or a whole number"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = arguments.args[0].to_array(arguments.number_rows)?;
        let texts: StringArray = match values.data_type() {
            DataType::Int64 => values.as_primitive::<Int64Type>().iter().map(|number| Some(format!("{:X}", number?))).collect(),
            DataType::Binary => values.as_binary::<i32>().iter().map(|bytes| bytes.map(digits_of)).collect(),
            _ => values.as_string::<i32>().iter().map(|text| text.map(|text| digits_of(text.as_bytes()))).collect(),
        };
        Ok(ColumnarValue::Array(Arc::new(texts)))
    }
}

/// `bin(number)`: the digits of a whole number in the base of two, without zeros in front; a negative one has 64.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Bin {
    signature: Signature,
}

impl Bin {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Bin {
    fn name(&self) -> &str {
        "bin"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [number] if number.is_integer() || number.is_null() => Ok(vec![DataType::Int64]),
            _ => plan_err!("bin takes a whole number"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let numbers = arguments.args[0].to_array(arguments.number_rows)?;
        let texts: StringArray = numbers.as_primitive::<Int64Type>().iter().map(|number| Some(format!("{:b}", number?))).collect();
        Ok(ColumnarValue::Array(Arc::new(texts)))
    }
}

/// `unhex(text)`: the bytes that its digits are, NULL where one is no digit. Of an odd number of digits the first is a zero, as in Flink.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Unhex {
    signature: Signature,
}

impl Unhex {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let halves = text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect::<Option<Vec<u8>>>()?;
    let (odd, even) = halves.split_at(halves.len() % 2);
    let pairs = even.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]);
    Some(odd.iter().map(|_| 0).chain(pairs).collect())
}

impl ScalarUDFImpl for Unhex {
    fn name(&self) -> &str {
        "unhex"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [text] if is_text(text) => Ok(vec![DataType::Utf8]),
            _ => plan_err!("unhex takes a text of hexadecimal digits"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = arguments.args[0].to_array(arguments.number_rows)?;
        let bytes: BinaryArray = texts.as_string::<i32>().iter().map(|text| text.and_then(bytes_of)).collect();
        Ok(ColumnarValue::Array(Arc::new(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_digits_and_back() {
        assert_eq!(digits_of(b"hello,world"), "68656C6C6F2C776F726C64");
        assert_eq!(bytes_of("537061726B2053514c").unwrap(), b"Spark SQL");
        assert_eq!(bytes_of("146").unwrap(), [0, 0x46]);
        assert_eq!(bytes_of("").unwrap(), b"");
        assert_eq!(bytes_of("0g"), None);
    }
}
