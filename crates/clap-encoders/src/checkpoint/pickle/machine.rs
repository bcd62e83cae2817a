//! The stack machine of pickles, protocols 2 to 5: opcodes in, [`Value`]s out.
//!
//! Source: CPython 3 `pickletools.py` for the opcodes, `pickle.py` (`_Unpickler`) for what they do to stack and memo. Text opcodes of
//! protocols 0 and 1 are there where picklers of protocol 2 wrote them (Python 2's `INT`).
//!
//! Bounds: an opcode is at least a byte and makes at most one value; the stack, the memo and the containers hold 4 to 16 bytes
//! for a byte of the pickle. Values are 40 bytes, and there are at most [`MOST_VALUES`].

use std::collections::HashMap;

use super::Reading;
use super::value::{Id, Pickle, Value};

/// Values of one pickle, and places of its memo. A state dict has about fifteen values a tensor.
const MOST_VALUES: usize = 1 << 22;

/// Values that are there from the start: a byte of a pickle can name them, and none of them ever changes.
const NONE: Id = 0;
const FALSE: Id = 1;
const TRUE: Id = 2;
const EMPTY_TUPLE: Id = 3;
const OPAQUE: Id = 4;

/// Reads the pickle that starts at `start`; gives it and the place after it.
///
/// # Errors
/// Where it is cut short or no pickler writes such a thing, with the place.
pub(super) fn parse(bytes: &[u8], start: usize) -> Reading<(Pickle<'_>, usize)> {
    if bytes.get(start) != Some(&0x80) {
        return Err("the pickle is not of protocol 2 or later; save it again with torch's default protocol".to_owned());
    }
    let mut machine = Machine {
        bytes,
        at: start,
        values: vec![Value::None, Value::Bool(false), Value::Bool(true), Value::Tuple(vec![]), Value::Opaque],
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
    };
    let root = machine.run().map_err(|reason| {
        format!("the pickle inside cannot be read, at byte {} of it: {reason}", machine.at.saturating_sub(start))
    })?;
    Ok((Pickle { values: machine.values, root }, machine.at))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at open MARKs.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// To STOP; gives what was on top of the stack.
    fn run(&mut self) -> Reading<Id> {
        loop {
            let [opcode] = self.array()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Reading<()> {
        match opcode {
            // PROTO, FRAME
            0x80 => match self.array()? {
                [2..=5] => Ok(()),
                [protocol] => Err(format!("protocol {protocol} is not one of 2 to 5")),
            },
            0x95 => self.length8().map(drop),

            // MARK, POP, POP_MARK, DUP
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                    Ok(())
                } else {
                    self.pop().map(drop)
                }
            }
            b'1' => {
                let mark = self.mark()?;
                self.stack.truncate(mark);
                Ok(())
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }

            // BINGET, LONG_BINGET, BINPUT, LONG_BINPUT, MEMOIZE
            b'h' => self.array().and_then(|[place]| self.recall(u32::from(place))),
            b'j' => self.array().and_then(|place| self.recall(u32::from_le_bytes(place))),
            b'q' => self.array().and_then(|[place]| self.memoize(u32::from(place))),
            b'r' => self.array().and_then(|place| self.memoize(u32::from_le_bytes(place))),
            0x94 => self.memoize(self.memo.len() as u32), // at most MOST_VALUES

            // NONE, NEWTRUE, NEWFALSE, EMPTY_TUPLE
            b'N' => self.push_known(NONE),
            0x88 => self.push_known(TRUE),
            0x89 => self.push_known(FALSE),
            b')' => self.push_known(EMPTY_TUPLE),

            // BININT, BININT1, BININT2, LONG1, LONG4, INT, LONG
            b'J' => self.array().and_then(|bytes| self.push(Value::Int(i64::from(i32::from_le_bytes(bytes))))),
            b'K' => self.array().and_then(|[value]| self.push(Value::Int(i64::from(value)))),
            b'M' => self.array().and_then(|bytes| self.push(Value::Int(i64::from(u16::from_le_bytes(bytes))))),
            0x8a => self.length1().and_then(|length| self.long(length)),
            0x8b => self.length4().and_then(|length| self.long(length)),
            b'I' | b'L' => match self.line()? {
                b"00" => self.push_known(FALSE),
                b"01" => self.push_known(TRUE),
                digits => {
                    let digits = digits.strip_suffix(b"L").unwrap_or(digits);
                    let value = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                    self.push(value.map_or(Value::Opaque, Value::Int))
                }
            },
            // BINFLOAT, FLOAT: no tensor needs one.
            b'G' => self.take(8).and_then(|_| self.push_known(OPAQUE)),
            b'F' => self.line().and_then(|_| self.push_known(OPAQUE)),

            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8; SHORT_BINSTRING, BINSTRING of Python 2
            0x8c | b'U' => self.length1().and_then(|length| self.text(length)),
            b'X' | b'T' => self.length4().and_then(|length| self.text(length)),
            0x8d => self.length8().and_then(|length| self.text(length)),
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8: in a numpy scalar, not in a tensor.
            b'C' => self.length1().and_then(|length| self.raw(length)),
            b'B' => self.length4().and_then(|length| self.raw(length)),
            0x8e | 0x96 => self.length8().and_then(|length| self.raw(length)),

            // EMPTY_DICT, EMPTY_LIST, EMPTY_SET, FROZENSET
            b'}' => self.push(Value::Dict(vec![])),
            b']' => self.push(Value::List(vec![])),
            0x8f => self.push_known(OPAQUE),
            0x91 => {
                let mark = self.mark()?;
                self.stack.truncate(mark);
                self.push_known(OPAQUE)
            }
            // TUPLE, TUPLE1, TUPLE2, TUPLE3, LIST, DICT
            b't' => {
                let items = self.marked()?;
                self.push(Value::Tuple(items))
            }
            0x85 => self.popped().and_then(|items: [Id; 1]| self.push(Value::Tuple(items.to_vec()))),
            0x86 => self.popped().and_then(|items: [Id; 2]| self.push(Value::Tuple(items.to_vec()))),
            0x87 => self.popped().and_then(|items: [Id; 3]| self.push(Value::Tuple(items.to_vec()))),
            b'l' => {
                let items = self.marked()?;
                self.push(Value::List(items))
            }
            b'd' => {
                let pairs = self.marked_pairs()?;
                self.push(Value::Dict(pairs))
            }
            // APPEND, APPENDS, ADDITEMS, SETITEM, SETITEMS
            b'a' => self.popped().and_then(|items: [Id; 1]| self.extend(&items)),
            b'e' | 0x90 => self.marked().and_then(|items| self.extend(&items)),
            b's' => self.popped().and_then(|[key, value]| self.set(vec![(key, value)])),
            b'u' => self.marked_pairs().and_then(|pairs| self.set(pairs)),

            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global { module, name })
            }
            0x93 => {
                let [module, name] = self.popped()?;
                match (&self.values[module as usize], &self.values[name as usize]) {
                    (&Value::Text(module), &Value::Text(name)) => self.push(Value::Global { module, name }),
                    _ => Err("a name that is not text".to_owned()),
                }
            }
            // REDUCE, NEWOBJ; NEWOBJ_EX, whose keyword arguments no tensor has
            b'R' | 0x81 => self.popped().and_then(|[callable, args]| self.push(Value::Call { callable, args })),
            0x92 => self.popped().and_then(|[callable, args, _]| self.push(Value::Call { callable, args })),
            // BUILD: attributes, for example `_metadata` of a state dict.
            b'b' => {
                self.pop()?;
                self.top().map(drop)
            }
            // BINPERSID
            b'Q' => self.pop().and_then(|id| self.push(Value::Persistent(id))),

            other => Err(format!("opcode {other:#04x}, which picklers of protocols 2 to 5 do not write for torch")),
        }
    }

    fn take(&mut self, length: usize) -> Reading<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        if length > rest.len() {
            return Err("it ends before it should; is the download complete?".to_owned());
        }
        self.at += length;
        Ok(&rest[..length])
    }

    fn array<const N: usize>(&mut self) -> Reading<[u8; N]> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take gives as much as is asked for"))
    }

    fn length1(&mut self) -> Reading<usize> {
        self.array().map(|[length]| usize::from(length))
    }

    fn length4(&mut self) -> Reading<usize> {
        self.array().map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    fn length8(&mut self) -> Reading<usize> {
        // One that does not fit is beyond the end of any file.
        self.array().map(|bytes| usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX))
    }

    /// To the end of the line, which is consumed.
    fn line(&mut self) -> Reading<&'a [u8]> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n');
        let line = self.take(length.ok_or("a line without an end")?)?;
        self.at += 1;
        Ok(line)
    }

    fn push_known(&mut self, id: Id) -> Reading<()> {
        self.stack.push(id);
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) -> Reading<()> {
        if self.values.len() >= MOST_VALUES {
            return Err(format!("more than {MOST_VALUES} values; no state dict has as many"));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    fn text(&mut self, length: usize) -> Reading<()> {
        self.take(length).and_then(|text| self.push(Value::Text(text)))
    }

    fn raw(&mut self, length: usize) -> Reading<()> {
        self.take(length).and_then(|_| self.push_known(OPAQUE))
    }

    fn long(&mut self, length: usize) -> Reading<()> {
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return self.push(Value::Long(bytes));
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    /// Of the innermost MARK; what is below it is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Reading<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err("nothing on the stack where a value should be".to_owned()),
        }
    }

    fn pop(&mut self) -> Reading<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The topmost values, the lowest first.
    fn popped<const N: usize>(&mut self) -> Reading<[Id; N]> {
        let mut items = [NONE; N];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        Ok(items)
    }

    fn mark(&mut self) -> Reading<usize> {
        self.marks.pop().ok_or_else(|| "the end of something that was not begun".to_owned())
    }

    /// Everything above the innermost MARK.
    fn marked(&mut self) -> Reading<Vec<Id>> {
        let mark = self.mark()?;
        Ok(self.stack.drain(mark..).collect())
    }

    fn marked_pairs(&mut self) -> Reading<Vec<(Id, Id)>> {
        let mark = self.mark()?;
        let items = &self.stack[mark..];
        if !items.len().is_multiple_of(2) {
            return Err("a key without a value".to_owned());
        }
        let pairs = items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        self.stack.truncate(mark);
        Ok(pairs)
    }

    fn recall(&mut self, place: u32) -> Reading<()> {
        match self.memo.get(&place) {
            Some(&id) => self.push_known(id),
            None => Err(format!("value {place} of the memo, which has none there")),
        }
    }

    fn memoize(&mut self, place: u32) -> Reading<()> {
        let top = self.top()?;
        if self.memo.len() >= MOST_VALUES {
            return Err(format!("a memo of more than {MOST_VALUES} values; no state dict needs one"));
        }
        self.memo.insert(place, top);
        Ok(())
    }

    /// Adds to the list on top of the stack. Other things that are added to hold no tensors.
    fn extend(&mut self, items: &[Id]) -> Reading<()> {
        let top = self.top()?;
        match &mut self.values[top as usize] {
            Value::List(list) => list.extend_from_slice(items),
            Value::Call { .. } | Value::Opaque => {}
            _ => return Err("an element for something that is no list".to_owned()),
        }
        Ok(())
    }

    /// Adds to the mapping on top of the stack. An object that is given items is a mapping, whatever its class.
    fn set(&mut self, pairs: Vec<(Id, Id)>) -> Reading<()> {
        let top = self.top()?;
        match &mut self.values[top as usize] {
            Value::Dict(dict) if dict.is_empty() => *dict = pairs,
            Value::Dict(dict) => dict.extend(pairs),
            object @ Value::Call { .. } => *object = Value::Dict(pairs),
            _ => return Err("an item for something that is no mapping".to_owned()),
        }
        Ok(())
    }
}
